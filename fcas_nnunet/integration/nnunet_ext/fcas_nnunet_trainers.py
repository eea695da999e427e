"""Lets stock nnU-Net find the trainers of fcas-nnunet by name. Nothing else belongs into this folder.

nnU-Net imports this file by its bare name and forgets it again; the classes live in the package, so that they can be
pickled and are the same at every look-up. Where the package is gone, a copy made by `fcas_env --install` is silent.
"""

try:
    from fcas_nnunet.integration.cal.trainers import *  # noqa: F403
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "fcas_nnunet":
        raise
