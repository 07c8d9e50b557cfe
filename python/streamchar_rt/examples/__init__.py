"""Small programs to begin from: ``python -m streamchar_rt.examples.hello --help``, and so with each of them.

``hello`` (three lines), ``barge_in`` (text from a language model, cut off by the user), ``window`` (a window with
sound), ``server`` (asyncio over HTTP), ``dialogue`` (two characters, one engine) and ``captioned`` (a video with
subtitles).
"""
from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import StreamCharError


def run(main: Callable[[], object]) -> None:
    """Runs an example; says what to do where it cannot."""
    try:
        main()
    except StreamCharError as error:
        sys.exit(f"{error.message}\n  try: {error.hint}")
    except KeyboardInterrupt:
        sys.exit(130)
