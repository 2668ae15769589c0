#!/usr/bin/env bash
# A real Slurm of several nodes on one machine, for the tests and for playing.
#
#   cluster.sh up DIR            three nodes of two fake GPUs each; prints the line that makes sbatch use it
#   cluster.sh down DIR          stops everything by process id, removes networks
#   cluster.sh poweroff DIR N    node N loses its power, with all that runs on it; `poweron` starts it again
#   cluster.sh cut DIR N         node N's cable is pulled; `heal` puts it back
#   cluster.sh restart DIR       the controller dies and comes back
#   cluster.sh configure DIR [KEY=VALUE | PARTITION:KEY=VALUE]…
#                                Slurm's defaults with these settings, and the controller started anew
#
# NODES, GPUS and CORES in the environment change the size; ACCOUNTING=no leaves the accounting out, CGROUP=yes holds
# tasks to their memory. Needs root and Debian's packages slurmctld slurmd slurm-client munge slurmdbd mariadb-server
# iproute2 util-linux.
#
# Each node is a network namespace on a bridge, with its own host name and process tree. Accounting runs on a
# MariaDB of the cluster's own. Everything lives in DIR; clusters in different folders do not meet.
set -euo pipefail

command=$1
mkdir -p "$2"
dir=$(realpath "$2")
nodes=${NODES:-3} gpus=${GPUS:-2} cores=${CORES:-8} accounting=${ACCOUNTING:-yes} cgroup=${CGROUP:-no}
number=$(($(cksum <<<"$dir" | cut -d' ' -f1) % 4000))
name=hpce$number
network=10.$((220 + number / 250)).$((number % 250))
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

# ---- processes, known by id and start time, so that a recycled id is never hit

start_time() { # the 22nd field of stat; nothing for a process that is gone or dead
  awk '{ sub(/.*\) /, ""); if ($1 != "Z" && $1 != "X") print $20 }' "/proc/$1/stat" 2>/dev/null || true
}

start() { # start NAME COMMAND…
  local label=$1
  shift
  setsid "$@" </dev/null >>"$dir/log/$label.out" 2>&1 &
  echo "$! $(start_time $!)" >"$dir/pid/$label"
}

stop() { # stop NAME SIGNAL
  local id born
  [ -s "$dir/pid/$1" ] || return 0
  read -r id born <"$dir/pid/$1"
  rm -f "$dir/pid/$1"
  [ "$(start_time "$id")" = "$born" ] || return 0
  kill "-$2" "$id" 2>/dev/null || true
  for _ in $(seq 200); do
    [ "$(start_time "$id")" = "$born" ] || return 0
    sleep 0.05
  done
  kill -KILL "$id" 2>/dev/null || true
}

await() { # await SECONDS COMMAND…
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ]; then
      echo "cluster.sh: waited in vain for: $*" >&2
      return 1
    fi
    sleep 0.05
  done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

# ---- parts

start_node() {
  # the inner shell is the node's first process: when it is killed, all of the node dies, as with its power
  start "node$1" nsenter --net="/run/netns/${name}n$1" \
    unshare --uts --mount --pid --fork --kill-child --mount-proc \
    bash -c "hostname node$1; mount --bind $dir/hosts /etc/hosts; slurmd -D -N node$1 & while :; do sleep 3600 & wait \$!; done"
}

start_controller() { start slurmctld slurmctld -D; }

all_idle() { [ "$(sinfo --noheader --partition=gpu --states=idle --format=%D)" = "$nodes" ]; }

database_answers() { mariadb-admin --no-defaults --socket="$dir/run/mysql.sock" ping; }

port_open() { (exec 3<>"/dev/tcp/$1/$2"); }

write_configuration() {
  local database_port=$1
  cat >"$dir/slurmdbd.conf" <<EOF
DbdHost=$host
DbdAddr=$network.1
DbdPort=$database_port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
CommitDelay=1
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/run/slurmdbd.pid
EOF
  chmod 600 "$dir/slurmdbd.conf"
  # what is not here is as Slurm has it by default, but for names, places and how long one waits
  cat >"$dir/slurm.conf" <<EOF
ClusterName=hpcembed
SlurmctldHost=$host($network.1)
SlurmctldPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
# a requeued job waits cred_expire seconds; 5 is the least allowed
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
MpiDefault=none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MaxJobCount=50000
KillWait=3
SlurmdTimeout=5
MessageTimeout=5
TCPTimeout=1
UnkillableStepTimeout=10
PropagateResourceLimits=NONE
EOF
  if [ "$accounting" = yes ]; then
    cat >>"$dir/slurm.conf" <<EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$network.1
AccountingStoragePort=$database_port
AccountingStoragePass=$dir/run/munge.sock
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
EOF
  fi
  if [ "$cgroup" = yes ]; then
    cat >>"$dir/slurm.conf" <<EOF
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
EOF
    printf 'ConstrainRAMSpace=yes\n' >"$dir/cgroup.conf"
  else
    # linuxproc would let children outlive a killed batch shell
    printf 'ProctrackType=proctrack/pgid\nTaskPlugin=task/none\nSelectTypeParameters=CR_Core\n' >>"$dir/slurm.conf"
  fi
  local node
  for node in $(seq "$nodes"); do
    echo "NodeName=node$node NodeAddr=$network.$((10 + node)) CPUs=$cores Boards=1 SocketsPerBoard=1" \
      "CoresPerSocket=$cores ThreadsPerCore=1 RealMemory=$((4000 * cores)) Gres=gpu:$gpus" >>"$dir/slurm.conf"
  done
  cat >>"$dir/slurm.conf" <<EOF
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
EOF
  cp "$dir/slurm.conf" "$dir/slurm.conf.base"
  # a GPU without a device file is dropped; these are /dev/null by another name
  local gpu
  for gpu in $(seq 0 $((gpus - 1))); do mknod -m 666 "$dir/dev/nvidia$gpu" c 1 3; done
  echo "Name=gpu File=$dir/dev/nvidia[0-$((gpus - 1))]" >"$dir/gres.conf"
}

lay_network() {
  ip link add "${name}br" type bridge
  ip addr add "$network.1/24" dev "${name}br"
  ip link set "${name}br" up
  printf '127.0.0.1 localhost\n%s %s\n' "$network.1" "$host" >"$dir/hosts"
  local node
  for node in $(seq "$nodes"); do
    ip netns add "${name}n$node"
    ip link add "${name}v$node" type veth peer name eth0 netns "${name}n$node"
    ip link set "${name}v$node" master "${name}br" up
    ip -n "${name}n$node" addr add "$network.$((10 + node))/24" dev eth0
    ip -n "${name}n$node" link set eth0 up
    ip -n "${name}n$node" link set lo up
    echo "$network.$((10 + node)) node$node" >>"$dir/hosts"
  done
}

start_database() {
  local options=(--no-defaults --user=root "--datadir=$dir/mysql" --innodb-log-file-size=4M --innodb-buffer-pool-size=64M)
  mariadb-install-db "${options[@]}" --auth-root-authentication-method=socket --skip-test-db >"$dir/log/install-db.log" 2>&1
  start mariadbd mariadbd "${options[@]}" --socket="$dir/run/mysql.sock" --pid-file="$dir/run/mysql.pid" \
    --skip-networking --skip-log-bin --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900
  await 30 database_answers
}

up() {
  down
  rm -rf "$dir"/{log,pid,state,spool,dev,key,run,mysql}
  mkdir -p "$dir"/{log,pid,state,spool,dev,key,run}
  chmod 700 "$dir/key"
  head -c 1024 /dev/urandom >"$dir/key/munge.key"
  chmod 400 "$dir/key/munge.key"
  start munged munged -F --key-file="$dir/key/munge.key" --seed-file="$dir/key/seed" \
    --log-file="$dir/log/munged.log" --pid-file="$dir/run/munged.pid" --socket="$dir/run/munge.sock" --num-threads=4
  local database_port
  database_port=$(free_port)
  write_configuration "$database_port"
  lay_network
  [ "$accounting" = no ] || start_database
  await 10 test -S "$dir/run/munge.sock"
  if [ "$accounting" = yes ]; then
    MYSQL_UNIX_PORT=$dir/run/mysql.sock start slurmdbd slurmdbd -D
    await 30 port_open "$network.1" "$database_port"
  fi
  start_controller
  local node
  for node in $(seq "$nodes"); do start_node "$node"; done
  await 30 all_idle
  echo "export SLURM_CONF=$SLURM_CONF"
}

down() {
  [ -d "$dir/pid" ] || return 0
  local file service node
  for file in "$dir"/pid/node*; do [ ! -e "$file" ] || stop "${file##*/}" KILL; done
  for service in slurmctld slurmdbd mariadbd munged; do stop $service TERM; done
  for node in $(seq 64); do
    [ -e "/run/netns/${name}n$node" ] || continue
    ip link del "${name}v$node" 2>/dev/null || true
    ip netns del "${name}n$node"
  done
  ip link del "${name}br" 2>/dev/null || true
}

configure() {
  cp "$dir/slurm.conf.base" "$dir/slurm.conf.new"
  local setting name
  for setting in "$@"; do
    name=${setting%%=*}
    if [[ $name == *:* ]]; then
      sed -i "/^PartitionName=${name%%:*} /s|\$| ${setting#*:}|" "$dir/slurm.conf.new"
    else
      sed -i "/^$name=/d" "$dir/slurm.conf.new"
      sed -i "1i $setting" "$dir/slurm.conf.new"
    fi
  done
  mv "$dir/slurm.conf.new" "$dir/slurm.conf"
  stop slurmctld TERM
  start_controller
  await 20 scontrol ping
  scontrol reconfigure
  await 30 all_idle
}

case $command in
  up) up ;;
  configure) configure "${@:3}" ;;
  down) down ;;
  poweroff) stop "node$3" KILL ;;
  poweron) [ -e "$dir/pid/node$3" ] || start_node "$3" ;;
  cut) ip link set "${name}v$3" down ;;
  heal) ip link set "${name}v$3" up ;;
  restart)
    stop slurmctld KILL
    start_controller
    await 20 scontrol ping
    ;;
  *)
    echo "cluster.sh: $command is no command; see the top of this file" >&2
    exit 2
    ;;
esac
