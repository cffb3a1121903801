"""Where bytes come from. Local files now; anything that offers ByteSource later."""

from qkvinspect.sources.local import LocalFile
from qkvinspect.sources.window import Window

__all__ = ["LocalFile", "Window"]
