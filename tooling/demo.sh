#!/usr/bin/env bash
# The main job, in the commands a user types: prune, build, boot an emulated phone, push, run, profile.
set -euo pipefail
cd "$(dirname "$0")/.."

photo=models/wdsr/photo.png
phone=emulator:demo

step() {
  if [[ -t 1 ]]; then printf '\n\033[1m$ %s\033[0m\n' "$*"; else printf '\n$ %s\n' "$*"; fi
  "$@"
}
trap 'edgectl emulator stop --name demo >/dev/null 2>&1 || true' EXIT

mkdir -p demo-out
step edgectl build models/wdsr/x4.toml --out demo-out/dense --force
step edgectl build models/wdsr/x4_pruned.toml --out demo-out/pruned --force
step edgectl emulator start --name demo
step edgectl push demo-out/pruned --device $phone
step edgectl run demo-out/pruned $photo --device $phone --reference models/wdsr/x4_pruned.toml --out demo-out/phone.png
step edgectl run demo-out/pruned $photo --device host --reference models/wdsr/x4_pruned.toml --out demo-out/host.png
step edgectl bench demo-out/pruned --against demo-out/dense --device host
step edgectl bench demo-out/pruned --against demo-out/dense --device $phone --runs 1 --warmup 0
step edgectl emulator stop --name demo
