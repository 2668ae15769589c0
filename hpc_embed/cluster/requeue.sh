# What the batch script does after the task. srun may replace a task's exit code (after an out-of-memory kill, say), so
# the task leaves its last word in a file: again (it has more to do), idle (the same, but this start finished nothing) or
# stopped (by a signal). Whoever died without a word counts as idle.
hpc_embed_code=$?
hpc_embed_word=$(cat "$HPC_EMBED_WORD" 2>/dev/null)
rm -f "$HPC_EMBED_WORD"
# the last element of an array has the array's own number: by that alone, all of its elements would be meant
hpc_embed_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
hpc_embed_job=${hpc_embed_job:-$SLURM_JOB_ID}

hpc_embed_state() {  # RUNNING still for a task in its grace period before a preemption, no longer for a cancelled one
  for hpc_embed_pause in 1 5 10; do
    squeue --noheader --jobs="$hpc_embed_job" --format=%T && return
    sleep $hpc_embed_pause
  done
}

hpc_embed_again=no
case "$hpc_embed_word:$hpc_embed_code" in
  again:* | idle:* | :85) hpc_embed_again=yes ;;
  stopped:* | :130 | :138 | :140 | :143) [ "$(hpc_embed_state)" = RUNNING ] && hpc_embed_again=yes ;;
esac
case "$hpc_embed_again:$hpc_embed_word" in
  yes:idle | yes:)  # starts in a row that finished nothing
    echo "$hpc_embed_code" >>"$HPC_EMBED_WORD.idle"
    if [ "$(wc -l <"$HPC_EMBED_WORD.idle")" -ge "$HPC_EMBED_MAX_TRIES" ]; then
      echo "hpc-embed: $HPC_EMBED_MAX_TRIES starts finished no window: not requeued. Give more time, or look above." >&2
      rm -f "$HPC_EMBED_WORD.idle"
      hpc_embed_again=no
      hpc_embed_code=6
    fi
    ;;
  *) rm -f "$HPC_EMBED_WORD.idle" ;;
esac
if [ $hpc_embed_again = yes ]; then
  for hpc_embed_pause in 1 5 15 30; do  # the controller may be away for a moment
    scontrol requeue "$hpc_embed_job" && break
    sleep $hpc_embed_pause
  done
fi
exit $hpc_embed_code
