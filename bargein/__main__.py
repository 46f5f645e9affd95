"""``python -m bargein`` is ``bargein``."""

import sys

from bargein.command import main

sys.exit(main())
