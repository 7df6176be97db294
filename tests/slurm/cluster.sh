#!/usr/bin/env bash
# cluster.sh start|stop FOLDER: a real Slurm on this machine alone, as root and without systemd, for tests. Everything that it writes
# lies in FOLDER, and `. FOLDER/environment` lets sbatch, squeue and scancel find it. Two nodes of one slurmd each, `left` and `right`.
# Needs the Debian packages slurm-wlm and munge.
set -euo pipefail

verb=${1:?start or stop} folder=$(realpath -m "${2:?a folder}")
cpus=${CPUS:-4}

# Returns a port on loopback that nobody listens on, from $1 on.
free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

stop() {
    for name in slurmd-left slurmd-right slurmctld munged; do
        [ -f "$folder/$name.pid" ] || continue
        local pid
        pid=$(cat "$folder/$name.pid")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
        rm -f "$folder/$name.pid"
    done
}

if [ "$verb" = stop ]; then
    stop
    exit 0
fi

[ "$(id -u)" = 0 ] || { echo "slurmd has to run as root"; exit 1; }
rm -rf "$folder"
# munged wants folders above its socket that others cannot write.
install -d -m 755 "$folder" "$folder/state" "$folder/left" "$folder/right"
install -d -o munge -g munge -m 755 "$folder/munge"
dd if=/dev/urandom of="$folder/munge/key" bs=1 count=1024 2>/dev/null
chown munge:munge "$folder/munge/key"
chmod 400 "$folder/munge/key"
touch "$folder/munged.pid"
chown munge:munge "$folder/munged.pid"
setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
cat "$folder/munge/pid" >"$folder/munged.pid"

controller=$(free_port 16817)
left=$(free_port $((controller + 1)))
right=$(free_port $((left + 1)))
host=$(hostname -s)
cat >"$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# How long a requeued job waits before it may start again.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,default_queue_depth=1000
SlurmdTimeout=10
SlurmctldTimeout=10
# More cores than there are: the tests only wait.
SlurmdParameters=config_overrides
KillWait=5
MinJobAge=60
JobRequeue=1
GresTypes=gpu
NodeName=left NodeHostname=$host NodeAddr=127.0.0.1 Port=$left CPUs=$cpus RealMemory=1000 Gres=gpu:2 State=UNKNOWN
NodeName=right NodeHostname=$host NodeAddr=127.0.0.1 Port=$right CPUs=$cpus RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=left,right Default=YES MaxTime=60 State=UP
END
# Cards that are none: files take the place of /dev/nvidia0 and /dev/nvidia1.
touch "$folder/card0" "$folder/card1"
cat >"$folder/gres.conf" <<END
NodeName=left,right Name=gpu File=$folder/card[0-1]
END
echo "export SLURM_CONF=$folder/slurm.conf" >"$folder/environment"
export SLURM_CONF=$folder/slurm.conf
/usr/sbin/slurmctld -f "$SLURM_CONF"
/usr/sbin/slurmd -f "$SLURM_CONF" -N left
/usr/sbin/slurmd -f "$SLURM_CONF" -N right
for _ in $(seq 100); do
    if [ "$(sinfo --noheader --format=%t --Node 2>/dev/null | sort -u)" = idle ]; then
        exit 0
    fi
    sleep 0.2
done
echo "the nodes did not come up:"
sinfo --Node || true
tail -n 5 "$folder"/*.log
stop
exit 1
