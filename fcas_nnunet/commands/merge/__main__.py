"""`python -m fcas_nnunet.commands.merge`."""

from fcas_nnunet.commands.merge.command import main

if __name__ == "__main__":
    main()
