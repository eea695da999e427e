"""Let stock nnU-Net find the trainers of fcas-nnunet by name. Nothing else belongs into this folder.

nnU-Net imports this file by its bare name at every look-up and does not keep it. The classes are defined in the
package, so that they can be pickled and are always the same. A copy made by `fcas_env --install` does nothing if the
package has been removed.
"""

try:
    from fcas_nnunet.integration.cal.trainers import *  # noqa: F403
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "fcas_nnunet":
        raise
