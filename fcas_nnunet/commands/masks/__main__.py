"""`python -m fcas_nnunet.commands.masks`, for launchers such as torchrun."""

from fcas_nnunet.commands.masks.command import main

if __name__ == "__main__":
    main()
