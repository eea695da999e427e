"""`python -m fcas_nnunet.commands.demo`, for launchers such as torchrun."""

from fcas_nnunet.commands.demo.command import main

if __name__ == "__main__":
    main()
