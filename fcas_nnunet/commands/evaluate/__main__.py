"""`python -m fcas_nnunet.commands.evaluate`, for launchers such as torchrun."""

from fcas_nnunet.commands.evaluate.command import main

if __name__ == "__main__":
    main()
