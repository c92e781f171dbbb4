#!/bin/bash
# One run as one SLURM job. Options of sbatch before the script, words of dcexp after it:
#   sbatch launchers/sbatch.sh filter=clip_score scale=medium
#   sbatch --partition=gpu --gpus-per-node=8 --cpus-per-task=64 launchers/sbatch.sh scale=large engine=slurm
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

# A preempted job is requeued by SLURM itself; one that runs out of time is not, so it asks for it 120 s before its end.
# Either way the same command starts again and continues from what it has stored. At most 10 times: it may never get further.
requeue() {
    if ((${SLURM_RESTART_COUNT:-0} < 10)); then scontrol requeue "$SLURM_JOB_ID"; fi
}
trap requeue USR1

# In the background, since bash runs a trap only between foreground commands; `wait` returns early for the signal.
"${PYTHON:-python}" -m dcexp "$@" &
wait $!
status=$?
while kill -0 $! 2>/dev/null; do wait $!; status=$?; done
exit "$status"
