# What the batch script does before the task. Slurm's tools take options from variables, and those that are here are of the
# shell or the job that submitted this, or of a set-up line: srun would start several tasks by them, ask for other memory,
# or leave our own variables behind, and squeue would hide this very job.
unset ${!SBATCH_@} ${!SALLOC_@} ${!SRUN_@} ${!SQUEUE_@} ${!SCONTROL_@}
for hpc_embed_name in ${!SLURM_@}; do
  case ${hpc_embed_name#SLURM_} in
    ACCTG_FREQ | BCAST* | BURST_BUFFER | COMPRESS | CONSTRAINT | CONTAINER | CORE_SPEC | CPUS_PER_* | CPU_* | DEBUG* | \
      DELAY_BOOT | DEPENDENCY | DIST* | EPILOG | EXACT | EXCLUSIVE | EXIT_* | EXPORT_ENV | GPUS | GPUS_PER_* | GPU_* | \
      GRES* | HET_* | HINT | HOSTFILE | IMMEDIATE | JOB_NAME | KILL_BAD_EXIT | LABELIO | MEM_* | MPI_TYPE | MULTI_PROG | \
      NETWORK | NO_KILL | NPROCS | NTASKS* | OPEN_MODE | OVERCOMMIT | OVERLAP | PARTITION | POWER | PROFILE | PROLOG | \
      QOS | REMOTE_CWD | REQ_SWITCH | RESERVATION | RESV_PORTS | SIGNAL | SPREAD_JOB | STD*MODE | TASK_* | TEST_EXEC | \
      THREAD* | TIMELIMIT | TIME_FORMAT | TRES_* | UMASK | UNBUFFEREDIO | USE_MIN_NODES | WAIT* | WCKEY | WHOLE | \
      WORKING_DIR)
      unset "$hpc_embed_name"
      ;;
  esac
done
export PYTHONSAFEPATH=1  # a random.py in the working folder is none of ours
