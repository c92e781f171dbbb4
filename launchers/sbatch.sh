#!/bin/bash
# One run as one SLURM job. Options of sbatch before the script, words of dcexp after it:
#   sbatch launchers/sbatch.sh filter=clip_score scale=medium
#   sbatch --partition=gpu --gpus-per-node=8 --cpus-per-task=64 launchers/sbatch.sh scale=large engine.devices=8
# Submit from the repository's root with the environment active: a job starts in the same folder and the same environment.
#SBATCH --job-name=dcexp
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# SLURM itself requeues a job that is preempted, not one that runs out of time: that one asks for it, 120 s before its end,
# when the run has saved what it was at. Either way the same command starts again and goes on. Ten times at most, should
# it never get on.
trap 'told=1; kill -USR1 $run' USR1

# In the background: bash runs a trap only between foreground commands. The signal ends a `wait`, so wait until it is over.
"${PYTHON:-python}" -m dcexp "$@" &
run=$!
while wait $run; status=$?; kill -0 $run 2>/dev/null; do :; done
if [[ ${told-} && $status != 0 ]] && ((${SLURM_RESTART_COUNT:-0} < 10)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
