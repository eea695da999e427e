"""`python -m fcas_nnunet.commands.confidence`."""

from fcas_nnunet.commands.confidence.command import main

if __name__ == "__main__":
    main()
