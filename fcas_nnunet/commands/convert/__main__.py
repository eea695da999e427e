"""`python -m fcas_nnunet.commands.convert`."""

from fcas_nnunet.commands.convert.command import main

if __name__ == "__main__":
    main()
