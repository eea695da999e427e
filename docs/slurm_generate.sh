#!/bin/bash
# A synthetic data set made by a SLURM array, one GPU a task. Arguments are those of fcas_generate:
#   sbatch --array=1-16 docs/slurm_generate.sh -d 901 -o 902 -n 10000
# Train the generator before (fcas_train). Tasks that failed or ran out of time: submit the same line again, or their
# numbers alone; what is there is skipped. The task that finds all cases there finishes the data set.
#SBATCH --job-name=fcas_generate
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=48G
#SBATCH --time=24:00:00
#SBATCH --output=fcas_generate_%A_%a.log
set -euo pipefail

: "${nnUNet_raw:?must name nnU-Net folder of raw data sets}" "${nnUNet_results:?}" "${nnUNet_preprocessed:?}"
# Put here how your cluster makes the environment known, for instance: source /path/to/venv/bin/activate

# The task's place in the array is its part: task 3 of --array=1-16 makes part 3/16.
exec fcas_generate "$@"
