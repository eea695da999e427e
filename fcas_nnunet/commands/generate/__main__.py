"""`python -m fcas_nnunet.commands.generate`, for launchers such as torchrun."""

from fcas_nnunet.commands.generate.command import main

if __name__ == "__main__":
    main()
