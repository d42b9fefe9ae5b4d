#!/bin/sh
# Cross-compiles the convolution tests for arm64, GoogleTest from Debian's sources included, and runs them under qemu: the NEON
# kernels tested on a machine that has none. Needs g++-aarch64-linux-gnu, qemu-user and libgtest-dev.
# Usage: conv_arm64.sh BUILD_FOLDER [GTEST_ARGUMENT...]
set -eu
build=$(mkdir -p "$1" && cd "$1" && pwd)
shift
root=$(cd "$(dirname "$0")/.." && pwd)
gtest=/usr/src/googletest/googletest
cxx="aarch64-linux-gnu-g++ -std=c++17 -O2 -Wall -Wextra -Werror"

if [ ! -e "$build/libgtest.a" ]; then
  for source in gtest-all gtest_main; do
    $cxx -O1 -I"$gtest" -I"$gtest/include" -c "$gtest/src/$source.cc" -o "$build/$source.o"
  done
  aarch64-linux-gnu-ar rcs "$build/libgtest.a" "$build/gtest-all.o" "$build/gtest_main.o"
fi

objects=
cd "$root"
for file in src/thread_pool.cc src/kernels/conv/*.cc src/kernels/conv/fallback/*.cc \
    src/kernels/conv/neon/*.cc tests/conv_*.cc; do
  object="$build/$(basename "$file" .cc).o"
  $cxx -DEDGE_HAVE_NEON=1 -Iinclude -Isrc -Itests -I"$gtest/include" -c "$file" -o "$object"
  objects="$objects $object"
done
$cxx -static $objects "$build/libgtest.a" -lpthread -o "$build/conv_tests"
exec qemu-aarch64 "$build/conv_tests" "$@"
