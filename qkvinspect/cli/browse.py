"""qkvinspect browse"""

from __future__ import annotations

import signal
import sys

from qkvinspect.cli import options
from qkvinspect.cli.declared import Exit


def browse(
    path: options.Checkpoints,
    layer: options.Layers = None,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Walk through the layers of a checkpoint in the terminal.

    The tree of layers, the Q, K and V of each with its heads, and the map of all heads. No weight is read before
    it is looked at: norms when a layer is shown, the analysis when you press a, what the weights say of the heads
    when you press e. The key ? shows all keys. Needs Textual.

    Examples:

    \b
      qkvinspect browse model.safetensors
      qkvinspect browse checkpoint_dir/ --layer 'decoder.*' --heads 32/8

    Exit status:

    \b
      0  you have seen enough
      2  the input or the command line cannot be used, or there is no terminal
    """
    from qkvinspect.errors import UsageError

    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise UsageError("there is no terminal to browse in", hint="`qkvinspect show` prints to files and pipes")
    try:
        from qkvinspect.tui.app import Browser
        from qkvinspect.tui.session import Session
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise UsageError("browse needs Textual, which is not installed", hint="pip install textual") from error
    with options.load(path, container, config, limit, download, base) as checkpoint:
        asked = options.asked(layers=layer, heads=heads, layouts=layout, norms=False, evidence="none")
        browser = Browser(Session(options.inspected(checkpoint, asked), asked))
        for number in (signal.SIGTERM, signal.SIGHUP):  # an exception would end in the middle of Textual's loop
            signal.signal(number, lambda number, _: browser.exit(return_code=128 + number))
        browser.run()
    if browser.return_code:
        raise Exit(browser.return_code)
