// The thread pool: every piece exactly once, in pieces of the asked size, whoever asks.
#include "edge/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace edge {
namespace {

TEST(ThreadPool, RunsEveryIndexExactlyOnce) {
  for (size_t threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (size_t n : {0, 1, 2, 7, 64, 1001}) {
      for (int round = 0; round < 50; ++round) {
        std::vector<std::atomic<int>> seen(n);
        pool.ParallelFor(n, 1, [&](size_t begin, size_t end) {
          for (size_t i = begin; i < end; ++i) ++seen[i];
        });
        for (size_t i = 0; i < n; ++i) ASSERT_EQ(seen[i], 1) << "index " << i << " of " << n;
      }
    }
  }
}

TEST(ThreadPool, PiecesAreNotSmallerThanTheGrain) {
  ThreadPool pool(4);
  std::atomic<int> pieces{0};
  pool.ParallelFor(100, 30, [&](size_t begin, size_t end) {
    EXPECT_GE(end - begin, 30u);
    ++pieces;
  });
  EXPECT_EQ(pieces, 3);
}

TEST(ThreadPool, WakesItsThreadsAfterALongPause) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<size_t> sum{0};
    pool.ParallelFor(64, 1, [&](size_t begin, size_t end) { sum += end - begin; });
    EXPECT_EQ(sum, 64u);
  }
}

TEST(ThreadPool, ALoopInsideALoopRunsOnItsOwnThread) {
  ThreadPool pool(2);
  std::atomic<size_t> sum{0};
  pool.ParallelFor(8, 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      pool.ParallelFor(10, 1, [&](size_t b, size_t e) { sum += e - b; });
    }
  });
  EXPECT_EQ(sum, 80u);
}

TEST(ThreadPool, TwoThreadsMayUseItAtOnce) {
  ThreadPool pool(2);
  std::atomic<size_t> sum{0};
  const auto work = [&] {
    for (int i = 0; i < 500; ++i)
      pool.ParallelFor(16, 1, [&](size_t b, size_t e) { sum += e - b; });
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(sum, 16000u);
}

}  // namespace
}  // namespace edge
