"""``python -m streamchar_rt`` is the ``streamchar`` command."""
import sys

from .cli import main

sys.exit(main())
