"""Lets stock nnU-Net find the trainers of fcas_demo by name, as `integration/nnunet_ext` does the users' trainers."""

from fcas_nnunet.commands.demo.trainers import *  # noqa: F403
