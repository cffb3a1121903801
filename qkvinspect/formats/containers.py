"""Find the state_dict in what a pickle holds, as people save it.

A checkpoint may be the state_dict itself, hold it under ``state_dict``, ``model``, ``module`` ..., hold an
average (EMA) of it and an optimizer beside it, nest it by sub-model, or be a whole pickled module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from qkvinspect.checkpoint import Config, Container, Role
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.pickle import Call, Global, Persistent, TensorCall, is_dict, is_sequence
from qkvinspect.formats.torch_objects import is_tensor
from qkvinspect.formats.torch_storages import storage_id
from qkvinspect.formats.tree import Counts, children_of, may_hold, module_state
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_mapping

_OPTIMIZER = late_pattern(r"optim|sched|scaler|rng_|callbacks|loops|^opt$|^extra_state$")
_EMA = late_pattern(r"(^|[_.])(ema|swa|averaged|shadow)([_.]|$)")
_HYPER = late_pattern(r"^(hyper_parameters|hparams|args|cfg|(\w+_)?config)$")
_MAX_CONFIGS = 1000
_MAX_PLAIN = 20_000
_MAX_PLAIN_DEPTH = 32


@dataclass(frozen=True, slots=True)
class StateDict:
    """A state_dict: its tensor nodes by path of keys, and the attributes of the pickled modules in it.

    Attributes:
        lost: names of what seem to be tensors of unknown kinds, with a description.
    """

    container: Container
    keys: tuple[str, ...]
    tensors: Mapping[tuple[str, ...], object]
    modules: Mapping[str, Mapping[str, object]]
    lost: Sequence[tuple[tuple[str, ...], str]]


def find(root: object, wanted: str | None, file: str, limits: Limits) -> tuple[StateDict, tuple[Container, ...]]:
    """Choose the state_dict: the one named by ``wanted``, else the model, before any average of it.

    Raises:
        CheckpointError: there is no tensor at all.
        UsageError: ``wanted`` names no container.
    """
    counts = Counts()
    choices = list(_containers(root, counts, limits.depth))
    containers = tuple(container for container, _ in choices)
    if wanted is not None:
        chosen = next((choice for choice in choices if choice[0].path == wanted), None)
        if chosen is None:
            names = ", ".join(repr(container.path) for container in containers)
            raise UsageError(f"there is no container {wanted!r}", file=file, found=names or "none")
    else:
        roles = ("model", "ema")
        chosen = next((choice for role in roles for choice in choices if choice[0].role == role), None)
    if chosen is None:
        raise CheckpointError(
            "holds no model weights",
            code=Code.NO_WEIGHTS,
            file=file,
            expected="a state_dict with tensors",
            found=_describe(root),
            hint="name the file that holds the model",
        )
    container, keys = chosen
    node = root
    for key in keys:
        node = children_of(node)[key]
    limits.check("tensors", counts.all(node), file)
    collector = _Collector(container.role, counts, file, limits)
    collector.collect(node, ())
    return StateDict(container, keys, collector.tensors, collector.modules, collector.lost), containers


def configs(root: object, keys: tuple[str, ...]) -> tuple[Config, ...]:
    """Hyper-parameters stored beside the state_dict (``args``, ``hyper_parameters``, ``model_args`` ...)."""
    found: list[Config] = []
    scalars: dict[str, object] = {}
    if not is_dict(root):
        return ()
    for key, node in islice(root.items(), _MAX_CONFIGS):
        if not isinstance(key, str) or key in keys[:1] or is_tensor(node) or _OPTIMIZER.search(key):
            continue
        value = plain(node)
        if is_mapping(value):
            found.append(Config(f"checkpoint:{key}", value, inside=True))
        elif isinstance(value, (int, float, str)):
            scalars[key] = value
    if scalars:
        found.append(Config("checkpoint", scalars, inside=True, outermost=True))
    return tuple(found)


def plain(node: object) -> object:
    """A node as plain Python values: mappings, lists, numbers and text. Objects become their state."""
    budget = [_MAX_PLAIN]

    def convert(node: object, depth: int) -> object:
        budget[0] -= 1
        if depth > _MAX_PLAIN_DEPTH or budget[0] < 0 or is_tensor(node):
            return None
        if node is None or isinstance(node, (str, int, float)):
            return node
        if isinstance(node, Call):
            state = node.state
            if is_dict(state):  # OmegaConf keeps a container's entries in _content and a leaf in _val
                return convert(state.get("_content", state.get("_val", state)), depth + 1)
            return convert(node.entries or node.items or None, depth + 1)
        if is_dict(node):
            return {str(key): convert(value, depth + 1) for key, value in node.items() if isinstance(key, (str, int))}
        if is_sequence(node):
            return [convert(item, depth + 1) for item in node]
        return None

    return convert(node, 0)


def _containers(root: object, counts: Counts, depth: int) -> Iterator[tuple[Container, tuple[str, ...]]]:
    """Every state_dict in the file, with the keys that lead to it, as seen from the outside in."""
    if is_dict(root) and {"state", "param_groups"} <= root.keys():
        yield Container("", counts.all(root), "optimizer"), ()
        return
    node, keys = root, ()
    for _ in range(depth):
        if 2 * counts.direct(node) >= counts.all(node) > 0:
            yield Container("/".join(keys), counts.all(node), "model"), keys
            return
        children = {
            key: child for key, child in children_of(node).items() if counts.all(child) and not _HYPER.search(key)
        }
        models = {key: None for key in children if _role(key) == "model"}
        inside = sum(counts.all(children[key]) for key in models)
        direct = counts.direct(node)
        is_state_dict = module_state(node) is not None or (direct > 0 and inside <= 2 * direct)
        if not children:
            return
        if is_state_dict or len(models) > 1:
            yield Container("/".join(keys), counts.all(node) if is_state_dict else inside, "model"), keys
        if is_state_dict:
            return
        for key in (key for key in children if key not in models):
            yield Container("/".join((*keys, key)), counts.all(children[key]), _role(key)), (*keys, key)
        if len(models) != 1:
            return
        (only,) = models
        node, keys = children[only], (*keys, only)


def _role(key: str) -> Role:
    if _OPTIMIZER.search(key.lower()):
        return "optimizer"
    return "ema" if _EMA.search(key.lower()) else "model"


class _Collector:
    """Gathers every tensor below a node, leaving out averages and optimizers beside the model's parts."""

    def __init__(self, role: Role, counts: Counts, file: str, limits: Limits) -> None:
        self.tensors: dict[tuple[str, ...], object] = {}
        self.modules: dict[str, Mapping[str, object]] = {}
        self._role = role
        self._counts = counts
        self._file = file
        self._limits = limits
        self.lost: list[tuple[tuple[str, ...], str]] = []
        self._seen = 0

    def collect(self, node: object, path: tuple[str, ...]) -> None:
        self._limits.check("depth", len(path), self._file, ".".join(path[:4]))
        module = module_state(node)
        if module is not None:
            counts = {key: value for key, value in module.items() if isinstance(key, str) and isinstance(value, int)}
            self.modules[".".join(path)] = counts
        children = children_of(node)
        self._seen += len(children)
        self._limits.check("objects", self._seen, self._file)
        if is_dict(node) and len(children) < len(node):
            if len(children) < sum(isinstance(key, (str, int)) for key in node):
                raise CheckpointError(
                    "two tensors have the same name: one key is a number, the other the same as text",
                    code=Code.TENSOR_TWICE,
                    file=self._file,
                    tensor=".".join(path),
                    hint="load it with torch, give them names of their own and save it again",
                )
            for key, child in node.items():
                if is_tensor(child) and not isinstance(key, (str, int)):
                    self.lost.append(((*path, repr(key)[:300]), "a key that is no text, and leads to a tensor"))
        for key, child in children.items():
            if type(child) is TensorCall or is_tensor(child):
                self.tensors[(*path, key)] = child
            elif isinstance(child, Call) and _holds_storage(child):
                self.lost.append(((*path, key), f"made of a storage by {_function(child)}, which is not known"))
            elif isinstance(child, Persistent) and storage_id(child):
                self.lost.append(((*path, key), "a bare storage, without a shape"))
            elif self._wants(key, in_module=module is not None) and may_hold(child) and self._counts.all(child):
                self.collect(child, (*path, key))

    def _wants(self, key: str, *, in_module: bool) -> bool:
        return self._role != "model" or in_module or _role(key) == "model"


def _holds_storage(node: Call) -> bool:
    return is_sequence(node.arguments) and any(isinstance(item, Persistent) for item in node.arguments)


def _function(node: Call) -> str:
    return str(node.function) if isinstance(node.function, Global) else "something"


def _describe(root: object) -> str:
    """Describe a file without weights in a few words."""
    if isinstance(root, Call):
        return f"a {root.function}" if isinstance(root.function, Global) else "an object"
    if is_dict(root):
        keys = ", ".join(repr(key) for key in islice(root, 6) if isinstance(key, (str, int)))
        odd = ", ".join(repr(key)[:60] for key in islice(root, 3))
        if odd and not keys:
            return f"a dict with keys that are no text: {odd}"
        return f"a dict with {keys}" if keys else "an empty dict"
    return f"a {type(root).__name__}"
