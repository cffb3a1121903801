"""The tiny models that generate.py writes one JSON file each for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One file to write: which model to build and how many attentions it must have."""

    file: str
    dist: str
    target: str  # "module:Class"
    kwargs: dict[str, Any]
    count: int
    names: str = "state_dict"
    config: str = ""  # configuration class; then the model is built as Class(config)


HEADS = "num_attention_heads"
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, HEADS: 4, "intermediate_size": 48}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {**SHAPE, **IDS, "vocab_size": 50, "max_position_embeddings": 24}
IMAGE = {**SHAPE, "image_size": 16, "patch_size": 8}
LLM = {**TEXT, "num_key_value_heads": 2}
LATENT = {
    **TEXT, "num_key_value_heads": 4, "kv_lora_rank": 5, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 7, "n_routed_experts": 4, "n_group": 2,
    "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}  # fmt: skip
SIDES = ("encoder", "decoder")
SEQ = {"d_model": 32, **{f"{s}_layers": 1 for s in SIDES}, **{f"{s}_ffn_dim": 48 for s in SIDES}}
SEQ |= {f"{s}_attention_heads": 4 for s in SIDES}
BART_SIZE = {**SEQ, **IDS, "vocab_size": 50, "max_position_embeddings": 24}
BART_SIZE |= {"decoder_start_token_id": 1, "forced_eos_token_id": 2}
XLM = {**IDS, "vocab_size": 50, "emb_dim": 32, "n_heads": 4, "max_position_embeddings": 24}
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}


def hf(file: str, model: str, count: int, names: str = "save_pretrained", **kwargs: Any) -> Case:
    """Describe a transformers model; ``model`` is "Class" or "Class:ConfigClass"."""
    cls, _, config = model.partition(":")
    config = config or cls.removesuffix("Model") + "Config"
    return Case(file, "transformers", f"transformers:{cls}", kwargs, count, names, config)


def df(file: str, model: str, count: int, **kwargs: Any) -> Case:
    """Describe a diffusers model."""
    return Case(file, "diffusers", f"diffusers:{model}", kwargs, count, "save_pretrained")


CASES: list[Case] = [
    hf("bert", "BertModel", 2, **TEXT),
    hf("bert-decoder", "BertLMHeadModel:BertConfig", 4, **TEXT, is_decoder=True,
       add_cross_attention=True),
    hf("roberta", "RobertaForMaskedLM:RobertaConfig", 2, **TEXT),
    hf("electra", "ElectraModel", 2, **TEXT, embedding_size=16),
    hf("albert", "AlbertModel", 1, **TEXT, embedding_size=16),
    hf("distilbert", "DistilBertModel", 2, vocab_size=50, dim=32, n_layers=2, n_heads=4,
       hidden_dim=48, max_position_embeddings=24),
    hf("deberta-v2", "DebertaV2Model", 2, **TEXT, relative_attention=True,
       pos_att_type=["p2c", "c2p"], share_att_key=False),
    hf("longformer", "LongformerModel", 4, **TEXT, attention_window=[4, 4]),
    hf("mpnet", "MPNetModel", 2, **TEXT),
    hf("esm", "EsmModel", 2, **TEXT, mask_token_id=3, position_embedding_type="rotary"),
    hf("reformer", "ReformerModel", 2, vocab_size=50, hidden_size=32, num_attention_heads=4,
       attention_head_size=8, feed_forward_size=48, attn_layers=["local", "local"],
       axial_pos_embds=False, max_position_embeddings=64, eos_token_id=2),
    hf("xlm", "XLMModel", 2, **XLM, n_layers=2, n_langs=1),
    hf("flaubert", "FlaubertModel", 1, **XLM, n_layers=1, n_langs=1),
    hf("xlnet", "XLNetModel", 2, vocab_size=50, d_model=32, n_layer=2, n_head=4, d_inner=48),
    hf("funnel", "FunnelModel", 3, vocab_size=50, d_model=32, n_head=4, d_head=8, d_inner=48,
       block_sizes=[1, 1], num_decoder_layers=1),
    hf("ctrl", "CTRLModel", 1, vocab_size=50, n_embd=32, n_head=4, n_layer=1, dff=48,
       n_positions=24),
    hf("cpmant", "CpmAntModel", 1, vocab_size=50, hidden_size=32, num_attention_heads=4,
       dim_head=8, dim_ff=48, num_hidden_layers=1, prompt_types=2, prompt_length=4,
       segment_types=2),
    hf("vit", "ViTModel", 2, **IMAGE),
    hf("vit-state-dict", "ViTModel", 2, "state_dict", **IMAGE),
    hf("deit", "DeiTModel", 2, **IMAGE),
    hf("beit", "BeitModel", 2, **IMAGE, use_relative_position_bias=True),
    hf("beit-state-dict", "BeitModel", 2, "state_dict", **IMAGE, use_relative_position_bias=True),
    hf("dinov2", "Dinov2Model", 2, **IMAGE),
    hf("swin", "SwinModel", 2, image_size=16, patch_size=2, embed_dim=16, depths=[1, 1],
       num_heads=[2, 4], window_size=2),
    hf("swin-state-dict", "SwinModel", 2, "state_dict", image_size=16, patch_size=2,
       embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=2),
    hf("segformer", "SegformerModel", 2, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
       hidden_sizes=[16, 32], patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[2, 4],
       mlp_ratios=[2, 2]),
    hf("detr", "DetrModel", 3, **SEQ, num_queries=5, use_timm_backbone=False,
       use_pretrained_backbone=False, backbone=None,
       backbone_config={**BACKBONE, "model_type": "resnet", "out_features": ["stage2"]}),
    hf("clip", "CLIPModel", 4, text_config=TEXT, vision_config=IMAGE, projection_dim=16),
    hf("blip-text", "BlipTextModel", 4, **TEXT, encoder_hidden_size=24, is_decoder=True),
    hf("llava", "LlavaForConditionalGeneration:LlavaConfig", 4, image_token_index=3,
       vision_config={**IMAGE, "model_type": "clip_vision_model"},
       text_config={**LLM, "model_type": "llama"}),
    hf("llama", "LlamaModel", 2, **LLM),
    hf("mistral", "MistralForCausalLM:MistralConfig", 2, **LLM),
    hf("mixtral", "MixtralModel", 2, **LLM, num_local_experts=2),
    hf("gemma", "GemmaModel", 2, **{**LLM, "num_key_value_heads": 1}, head_dim=16),
    hf("qwen2", "Qwen2Model", 2, **LLM),
    hf("qwen3", "Qwen3Model", 2, **LLM, head_dim=16),
    hf("olmo2", "Olmo2Model", 2, **LLM),
    hf("gpt-oss", "GptOssModel", 2, **LLM, head_dim=8, num_local_experts=2,
       num_experts_per_tok=1),
    hf("lfm2", "Lfm2Model", 1, **LLM, layer_types=["conv", "full_attention"]),
    hf("gpt-neo", "GPTNeoModel", 2, **IDS, vocab_size=50, hidden_size=32, num_layers=2,
       num_heads=4, attention_types=[[["global", "local"], 1]], max_position_embeddings=24),
    hf("gptj", "GPTJModel", 1, **IDS, vocab_size=50, n_embd=32, n_layer=1, n_head=4,
       n_positions=24, rotary_dim=4),
    hf("deepseek-v3", "DeepseekV3Model", 2, **LATENT, q_lora_rank=7),
    hf("deepseek-v2-lite", "DeepseekV2Model", 2, **LATENT, q_lora_rank=None),
    hf("t5", "T5ForConditionalGeneration:T5Config", 3, vocab_size=50, d_model=32, d_kv=6,
       d_ff=48, num_layers=1, num_heads=4),
    hf("bart", "BartForConditionalGeneration:BartConfig", 3, **BART_SIZE),
    hf("marian", "MarianMTModel:MarianConfig", 3, **BART_SIZE),
    hf("opt", "OPTForCausalLM:OPTConfig", 2, **IDS, vocab_size=50, hidden_size=32, ffn_dim=48,
       num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=24,
       word_embed_proj_dim=32),
    hf("whisper", "WhisperForConditionalGeneration:WhisperConfig", 3, **SEQ, **IDS,
       vocab_size=50, max_source_positions=20, max_target_positions=20, num_mel_bins=8,
       decoder_start_token_id=1),
    hf("wav2vec2", "Wav2Vec2Model", 2, **SHAPE, vocab_size=50, conv_dim=[8, 8],
       conv_stride=[2, 2], conv_kernel=[4, 4], num_conv_pos_embeddings=4,
       num_conv_pos_embedding_groups=2),
    df("unet", "UNet2DConditionModel", 8, sample_size=8, block_out_channels=(8, 32),
       layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
       up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=24,
       attention_head_dim=4, norm_num_groups=4),
    df("dit", "DiTTransformer2DModel", 1, sample_size=8, in_channels=4, num_layers=1,
       num_attention_heads=4, attention_head_dim=8, norm_num_groups=4),
    df("sd3", "SD3Transformer2DModel", 5, sample_size=8, in_channels=4, out_channels=4,
       num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=24,
       caption_projection_dim=32, pooled_projection_dim=16, pos_embed_max_size=4,
       dual_attention_layers=(0,), qk_norm="rms_norm"),
    df("flux", "FluxTransformer2DModel", 3, in_channels=4, num_layers=1, num_single_layers=1,
       attention_head_dim=8, num_attention_heads=4, joint_attention_dim=24,
       pooled_projection_dim=16, axes_dims_rope=(2, 2, 4)),
    df("vae", "AutoencoderKL", 2, block_out_channels=(8,), norm_num_groups=4),
    Case("encoder-decoder", "openai-whisper", "whisper.model:Whisper", {"dims": (
        "whisper.model:ModelDimensions", 8, 20, 32, 4, 1, 50, 24, 32, 4, 1)}, 3),
    Case("encoder-decoder", "x-transformers", "x_transformers:XTransformer", {
        "dim": 32, **{f"{s[:3]}_{k}": v for s in SIDES for k, v in {
            "num_tokens": 50, "depth": 1, "heads": 4, "max_seq_len": 16,
            "attn_dim_head": 8}.items()}}, 3),
    Case("gqa", "x-transformers", "x_transformers:TransformerWrapper", {
        "num_tokens": 50, "max_seq_len": 16, "attn_layers": ("x_transformers:Decoder", {
            "dim": 32, "depth": 2, "heads": 4, "attn_dim_head": 8, "attn_kv_heads": 2,
            "attn_qk_norm": True})}, 2),
    Case("llama3", "llama_models", "llama_models.llama3.model:Transformer", {"params": (
        "llama_models.llama3.args:ModelArgs", {
            "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 50,
            "multiple_of": 8, "max_batch_size": 1, "max_seq_len": 16})}, 2),
    Case("esm2", "fair-esm", "esm.model.esm2:ESM2",
         {"num_layers": 2, "embed_dim": 32, "attention_heads": 4}, 2),
    Case("eva-unfused", "timm", "timm.models.eva:Eva", {
        "img_size": 16, "patch_size": 8, "num_classes": 3, "embed_dim": 32, "depth": 1,
        "num_heads": 4, "qkv_fused": False, "swiglu_mlp": True}, 1),
    Case("modified-resnet", "open_clip_torch", "open_clip.modified_resnet:ModifiedResNet", {
        "layers": (1, 1, 1, 1), "output_dim": 16, "heads": 4, "image_size": 32, "width": 8}, 1),
    # Decoys: confusing names, no attention.
    Case("decoy-lstm", "torch", "torch.nn:LSTM", {"input_size": 32, "hidden_size": 32}, 0),
    Case("decoy-gru", "torch", "torch.nn:GRU", {"input_size": 32, "hidden_size": 32}, 0),
    Case("decoy-weight-norm", "torch", "torch.nn.utils:weight_norm",
         {"module": ("torch.nn:Linear", 32, 96)}, 0),
    hf("decoy-mamba", "MambaModel", 0, vocab_size=50, hidden_size=32, num_hidden_layers=1,
       state_size=4),
    hf("decoy-mamba2", "Mamba2Model", 0, **IDS, vocab_size=50, hidden_size=32, state_size=4,
       num_hidden_layers=1, num_heads=8, head_dim=8, n_groups=2),
    hf("decoy-lfm2-conv", "Lfm2Model", 0, **LLM, layer_types=["conv", "conv"]),
    hf("decoy-rwkv", "RwkvModel", 0, vocab_size=50, hidden_size=32, attention_hidden_size=32,
       num_hidden_layers=2, intermediate_size=48, context_length=16),
    hf("decoy-fnet", "FNetModel", 0, vocab_size=50, hidden_size=32, num_hidden_layers=2,
       intermediate_size=48, max_position_embeddings=24),
    hf("decoy-resnet", "ResNetModel", 0, **BACKBONE),
    hf("decoy-focalnet", "FocalNetModel", 0, image_size=16, patch_size=2, embed_dim=8,
       hidden_sizes=[8, 16], depths=[1, 1], focal_levels=[1, 1], focal_windows=[3, 3]),
    Case("decoy-swiglu", "timm", "timm.layers:SwiGLU",
         {"in_features": 32, "hidden_features": 32}, 0),
    Case("decoy-glu-packed", "timm", "timm.layers:SwiGLUPacked",
         {"in_features": 32, "hidden_features": 96, "out_features": 32}, 0),
    Case("decoy-mlp-mixer", "timm", "timm.models.mlp_mixer:MlpMixer", {
        "num_classes": 3, "img_size": 16, "patch_size": 8, "num_blocks": 1, "embed_dim": 32}, 0),
]  # fmt: skip
