"""Report what a pickle would run if it were unpickled, from the classes and functions that it names.

No list of dangers is complete: a file that names none of them may still be unsafe to unpickle. The list only informs
the reader; nothing is allowed or refused because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats.pickle.nodes import Global


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODULES = _words(
    "_ctypes _imp _pickle _posixsubprocess _socket _thread _winapi bdb cPickle cffi cloudpickle codeop "
    "commands ctypes dill distutils ensurepip fcntl ftplib gc httplib imp importlib joblib marshal mmap msvcrt "
    "nt ntpath os pdb pexpect pickle pip pkgutil popen2 posix posixpath pty pydoc resource runpy setuptools "
    "shutil signal smtplib socket socketserver ssl subprocess sys telnetlib tempfile timeit urllib urllib2 "
    "webbrowser winreg xmlrpc zipimport asyncio.subprocess asyncio.unix_events concurrent.futures http.client "
    "http.server logging.config multiprocessing.context multiprocessing.popen_fork multiprocessing.process "
    "multiprocessing.util numpy.distutils numpy.f2py numpy.testing pandas.io requests.api requests.sessions "
    "torch._dynamo torch._inductor torch.distributed.rpc torch.export torch.hub torch.jit torch.onnx "
    "torch.package torch.testing torch.utils.bottleneck torch.utils.collect_env torch.utils.cpp_extension "
    "torch.utils.model_zoo"
)
"""Modules that only programs need, with whatever lies below them."""

_NAMES = {
    "builtins": "__build_class__ __import__ breakpoint classmethod compile delattr eval exec execfile exit file "
    "getattr globals help input locals map filter memoryview open property quit reduce setattr staticmethod super vars",
    "_io": "FileIO open open_code",
    "_operator": "attrgetter call itemgetter methodcaller",
    "asyncio": "create_subprocess_exec create_subprocess_shell run",
    "bz2": "BZ2File open",
    "cProfile": "run runctx",
    "code": "InteractiveConsole InteractiveInterpreter compile_command interact",
    "codecs": "StreamReaderWriter open",
    "copyreg": "add_extension constructor pickle",
    "doctest": "debug_script testfile testmod",
    "functools": "partialmethod reduce",
    "gzip": "GzipFile open",
    "inspect": "getattr_static",
    "io": "FileIO open open_code",
    "itertools": "accumulate starmap",
    "linecache": "getline updatecache",
    "lzma": "LZMAFile open",
    "multiprocessing": "Pool Process",
    "numpy": "DataSource fromfile genfromtxt load loadtxt memmap save savez vectorize",
    "numpy.lib.npyio": "DataSource load loadtxt save",
    "numpy.lib._npyio_impl": "DataSource load loadtxt save",
    "operator": "attrgetter call itemgetter methodcaller",
    "pandas": "eval read_pickle",
    "platform": "popen",
    "profile": "run runctx",
    "requests": "delete get head patch post put request session Session",
    "shelve": "open",
    "sqlite3": "connect",
    "threading": "Thread Timer",
    "torch": "compile load save",
    "torch.fx.graph_module": "_deserialize_graph_module _exec_with_source _forward_from_src reduce_deploy_graph_module "
    "reduce_graph_module reduce_package_graph_module",
    "torch.serialization": "load save _legacy_load _load",
    "torch.storage": "_load_from_bytes",
    "trace": "Trace",
    "types": "CodeType FunctionType LambdaType MethodType ModuleType",
    "zipfile": "ZipFile",
}
_DANGEROUS = {(module, name) for module, names in _NAMES.items() for name in names.split()}
_PYTHON_2 = {"__builtin__": "builtins", "exceptions": "builtins", "copy_reg": "copyreg"}

_WAYS_OUT = _words(
    "__builtins__ __class__ __code__ __dict__ __getattribute__ __globals__ __loader__ __mro__ __reduce__ "
    "__reduce_ex__ __self__ __spec__ __subclasses__ __wrapped__"
)
"""Attributes through which any object leads to everything else."""

_DATA = _words("_codecs argparse array collections datetime decimal enum fractions numpy pathlib torch uuid")
"""Packages whose other functions make data, or modules of torch."""

_DATA_NAMES = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple type",
    "copyreg": "__newobj__ __newobj_ex__ _reconstructor",
    "functools": "partial",
}
_MAX_NAMED = 4
_MAX_NAME = 120


def is_dangerous(named: Global) -> bool:
    """Whether unpickling what is named can run what a file says, or read or change things outside it."""
    module, attributes = _PYTHON_2.get(named.module, named.module), named.name.split(".")
    packages = module.split(".")
    if any(".".join(packages[:depth]) in _MODULES for depth in range(1, len(packages) + 1)):
        return module != "torch.jit._pickle"
    if (module, attributes[0]) in _DANGEROUS or f"{module}.{attributes[0]}" in _MODULES:
        return True
    # From protocol 4 on a name may have dots, and so reach what a module imports: torch.serialization, os.system.
    return any(
        attribute in _MODULES or attribute in _WAYS_OUT or (depth > 0 and ("builtins", attribute) in _DANGEROUS)
        for depth, attribute in enumerate(attributes)
    )


def is_data(named: Global) -> bool:
    """Whether what is named makes plain data, or a module of torch."""
    module = _PYTHON_2.get(named.module, named.module)
    return module.partition(".")[0] in _DATA or named.name in _DATA_NAMES.get(module, "").split()


def findings(named: Iterable[Global], called: Iterable[Global]) -> Iterator[Finding]:
    """Findings about the classes and functions that a pickle names, and those that it would call."""
    dangers = [each for each in dict.fromkeys(named) if is_dangerous(each)]
    if dangers:
        text = f"{warning(dangers)}: do not torch.load it with weights_only=False"
        yield Finding(FindingCode.DANGEROUS_GLOBAL, text)
    unknown = [each for each in dict.fromkeys(called) if not is_data(each) and each not in dangers]
    if unknown:
        text = f"unpickling it would also call {_listed(unknown)}, which this tool does not know"
        yield Finding(FindingCode.UNKNOWN_GLOBAL, text)


def warning(dangers: Iterable[Global]) -> str:
    return f"this file would run {_listed(list(dangers))} if it were unpickled"


def _listed(named: list[Global]) -> str:
    texts = [str(each) if len(str(each)) <= _MAX_NAME else f"{str(each)[:_MAX_NAME]}..." for each in named[:_MAX_NAMED]]
    more = len(named) - len(texts)
    return ", ".join(texts) + (f" and {more} others" if more else "")
