"""`python -m fcas_nnunet.commands.report`, for launchers such as torchrun."""

from fcas_nnunet.commands.report.command import main

if __name__ == "__main__":
    main()
