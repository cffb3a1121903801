"""Where bytes come from. Local files now; anything that offers ByteSource later."""

from qkvinspect.sources.local import LocalFile

__all__ = ["LocalFile"]
