"""The page: python app.py [--host H] [--port P]. A Space starts this file; studio/page.py holds what it does."""

import sys

from studio.page import main

if __name__ == "__main__":
    sys.exit(main())
