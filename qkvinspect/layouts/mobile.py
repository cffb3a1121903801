"""timm's networks for phones and other small ones, and its blocks that do attention and MLP at once."""

from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import PER_HEAD, K, Packing, Q

_MLP_FIRST = Packing(("mlp", "q", "k", "v"))
_GATED_V = Packing(("v", "vgate"))

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        id="timm-efficientvit-mit",
        libraries="timm EfficientViT of MIT: linear attention",
        weights=(StoredWeight("qkv.conv.weight", PER_HEAD),),
        biases=(StoredWeight("qkv.conv.bias", PER_HEAD),),
        siblings=("aggreg.0.0.weight", "aggreg.0.1.weight"),
        kv_heads="equal",
        head_tensors=(HeadTensor("aggreg.0.1.weight", 1, "head_dim"),),
        source="timm/models/efficientvit_mit.py, LiteMLA.forward: reshape(-1, 3 * dim, ...).chunk(3)",
        proof="source",
        note="the output projection takes these heads and as many again from their surroundings (aggreg)",
    ),
    *(
        Layout(
            id=f"ultralytics-{kind}",
            libraries=f"Ultralytics {libraries}",
            weights=(StoredWeight("qkv.conv.weight", PER_HEAD),),
            biases=(),
            ndim=4,
            out_ratio=ratio,
            siblings=("pe.conv.weight", "proj.conv.weight"),
            out=("proj.conv.weight",),
            kv_heads="equal",
            v_free=v_ratio is not None,
            v_ratio=v_ratio,
            head_tensors=(),
            source=f"ultralytics/nn/modules/block.py, {source}",
            proof="source",
            note=f"a batch norm follows: fold it in before the values mean anything; {note}",
        )
        for kind, libraries, ratio, v_ratio, source, note in (
            (
                "psa",
                "YOLOv10, YOLO11, RT-DETR's C2PSA: attention of which K is half as wide as V",
                2,
                2,
                "Attention.forward: view(heads, 2 * key_dim + head_dim), split",
                "YOLO's heads have 64 rows of V",
            ),
            (
                "area",
                "YOLO12: attention within areas",
                3,
                None,
                "AAttn.forward: view(heads, 3 * head_dim), split",
                "YOLO's heads have 32 rows",
            ),
        )
    ),
    Layout(
        id="timm-conv-attention",
        libraries="timm LowFormer, CPUBone",
        weights=(StoredWeight("pwise.weight", PER_HEAD),),
        biases=(),
        siblings=("conv_proj.norm.weight",),
        ndim=4,
        kv_heads="equal",
        head_tensors=(),
        source="timm/models/lowformer.py, ConvAttention.forward: view(num_heads, 3 * head_dim), then chunk(3)",
        proof="source",
        note="a depthwise convolution comes first",
    ),
    Layout(
        id="timm-iformer",
        libraries="timm iFormer: one head, V and its gate in one tensor",
        weights=(
            StoredWeight("q.c.weight", Q),
            StoredWeight("k.c.weight", K),
            StoredWeight("v_gate.c.weight", _GATED_V),
        ),
        biases=(),
        out=("proj.c.weight",),
        num_heads=1,
        kv_heads="equal",
        v_free=True,
        source="timm/models/iformer.py, SHMA.forward: v, gate = chunk(2)",
        proof="source",
        note="a batch norm follows: fold it in before the values mean anything",
    ),
    Layout(
        id="timm-diff-parallel",
        libraries="timm differential attention and MLP side by side",
        weights=(StoredWeight("in_proj.weight", _MLP_FIRST),),
        biases=(StoredWeight("in_proj.bias", _MLP_FIRST),),
        siblings=("sub_norm.weight", "in_norm.weight", "out_proj.weight"),
        subheads=(("q", 2), ("k", 2)),
        kv_heads="equal",
        square=True,
        head_tensors=(HeadTensor("sub_norm.weight", 0, "head_dim"),),
        source="timm/models/vision_transformer.py, DiffParallelScalingBlock.forward",
        proof="source",
        note="rows of the MLP come first; Q and K have two half-wide heads for each head of V",
    ),
)
