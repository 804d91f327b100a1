"""`python -m cloud.cli`"""

from cloud.cli.app import main

if __name__ == "__main__":
    main()
