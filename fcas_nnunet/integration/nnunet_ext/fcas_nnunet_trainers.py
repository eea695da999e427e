"""Lets stock nnU-Net find the trainers of fcas-nnunet by name. Nothing else belongs into this folder.

nnU-Net imports this file by its bare name and forgets it again; the classes live in the package, so that they can be
pickled and are the same at every look-up. Where the package is gone, a copy made by `fcas_env --install` is silent.
"""

try:
    from fcas_nnunet.integration.cal.trainers import (
        nnUNetTrainer_fcasDemo,
        nnUNetTrainerCAL,
        nnUNetTrainerCAL_1epoch,
        nnUNetTrainerCAL_5epochs,
        nnUNetTrainerCAL_50epochs,
        nnUNetTrainerCAL_250epochs,
        nnUNetTrainerCAL_demo,
        nnUNetTrainerCALFinetune,
        nnUNetTrainerCALFinetune_1epoch,
        nnUNetTrainerCALFinetune_5epochs,
        nnUNetTrainerCALFinetune_50epochs,
        nnUNetTrainerCALFinetune_250epochs,
        nnUNetTrainerCALFinetune_demo,
    )

    __all__ = [
        "nnUNetTrainerCAL",
        "nnUNetTrainerCALFinetune",
        "nnUNetTrainerCALFinetune_1epoch",
        "nnUNetTrainerCALFinetune_250epochs",
        "nnUNetTrainerCALFinetune_50epochs",
        "nnUNetTrainerCALFinetune_5epochs",
        "nnUNetTrainerCALFinetune_demo",
        "nnUNetTrainerCAL_1epoch",
        "nnUNetTrainerCAL_250epochs",
        "nnUNetTrainerCAL_50epochs",
        "nnUNetTrainerCAL_5epochs",
        "nnUNetTrainerCAL_demo",
        "nnUNetTrainer_fcasDemo",
    ]
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "fcas_nnunet":
        raise
