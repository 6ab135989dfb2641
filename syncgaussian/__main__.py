"python -m syncgaussian: the same as the command `syncgaussian`"
from .cli import main

raise SystemExit(main())
