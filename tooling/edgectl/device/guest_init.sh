#!/bin/busybox sh
# The emulated phone's first process: mounts, network, adbd, and then sleep. Options come from the kernel's command line.
/bin/busybox --install -s /bin
export PATH=/bin:/system/bin
mount -t proc proc /proc
mount -t sysfs sys /sys # without it cpuinfo, then XNNPACK, fail
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts

disk=512
for word in $(cat /proc/cmdline); do
  case "$word" in
    edgectl.disk_mb=*) disk=${word#*=} ;;
  esac
done
mount -t tmpfs -o "size=${disk}m,mode=0771" data /data
mkdir -p /data/local/tmp /data/misc/adb

for module in $(cat /modules/order); do
  insmod "/modules/$module.ko"
done
ifconfig lo up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up

export HOME=/data/local/tmp TMPDIR=/data/local/tmp LD_LIBRARY_PATH=/lib
(while :; do /usr/sbin/adbd >/adbd.log 2>&1; sleep 1; done) &
echo "EDGECTL-READY $(cut -d' ' -f1 /proc/uptime)" >/dev/console
while :; do wait; sleep 3600; done # reaps orphans, and else sleeps: an idle guest costs its host nothing
