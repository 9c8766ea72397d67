"""The frozen program's first lines: what ``python -m fastgw`` does."""

from fastgw.__main__ import main

if __name__ == "__main__":
    main()
