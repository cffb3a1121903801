"""Where bytes come from: local files and URLs.

``locate``, and all that it imports, is imported only where a URL is given.
"""

from qkvinspect.sources.local import LocalFile
from qkvinspect.sources.prefetch import announce
from qkvinspect.sources.urls import is_remote, local_path
from qkvinspect.sources.window import Window

__all__ = ["LocalFile", "Window", "announce", "is_remote", "local_path"]
