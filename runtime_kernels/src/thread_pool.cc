// The thread pool: one job at a time, its pieces handed out by one atomic word.
#include "edge/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace edge {
namespace {

constexpr size_t kMaxThreads = 256;
constexpr size_t kPiecesPerThread = 4;  // so that a thread which the system took away delays little
constexpr int kSpins = 4000;  // some 20 to 100 microseconds, the pause between two ops of a network

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One job's progress: which job, how many pieces it has, and the next one that nobody took.
struct Ticket {
  uint32_t job;
  uint16_t pieces;
  uint16_t next;
  bool HasWork() const { return next < pieces; }
};
uint64_t Pack(Ticket t) { return uint64_t{t.job} << 32 | uint64_t{t.pieces} << 16 | t.next; }
Ticket Unpack(uint64_t word) {
  return {static_cast<uint32_t>(word >> 32), static_cast<uint16_t>(word >> 16),
          static_cast<uint16_t>(word)};
}

}  // namespace

struct ThreadPool::Impl {
  using Body = std::function<void(size_t, size_t)>;

  size_t threads = 1;
  int spins = 0;
  std::unique_ptr<std::thread[]> workers;
  std::atomic<bool> busy{false};  // a job is running
  std::atomic<bool> stop{false};

  std::atomic<uint64_t> ticket{0};
  std::atomic<const Body*> body{nullptr};  // of the job; both change only while no piece is left
  std::atomic<size_t> size{0};
  std::atomic<uint32_t> done{0};  // finished pieces

  std::mutex mutex;
  std::condition_variable work_arrived, job_done;
  std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};

  ~Impl();
  bool RunPiece() noexcept;
  void WorkerLoop();
  void WaitForJob(uint32_t pieces);
};

// Takes and runs one piece; false when none is left. A piece can only be taken while the word read
// first still stands, and then the job it belongs to is unfinished, so `body` and `size` read in
// between are that job's.
bool ThreadPool::Impl::RunPiece() noexcept {
  uint64_t word = ticket.load(std::memory_order_acquire);
  for (;;) {
    const Ticket t = Unpack(word);
    if (!t.HasWork()) return false;
    const Body* job_body = body.load(std::memory_order_acquire);
    const size_t n = size.load(std::memory_order_acquire);
    if (!ticket.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel,
                                      std::memory_order_acquire))
      continue;
    const size_t share = n / t.pieces, rest = n % t.pieces;
    const size_t begin = t.next * share + std::min<size_t>(t.next, rest);
    (*job_body)(begin, begin + share + (t.next < rest ? 1 : 0));
    if (done.fetch_add(1) + 1 == t.pieces && caller_sleeps.load()) {
      const std::lock_guard<std::mutex> lock(mutex);
      job_done.notify_one();
    }
    return true;
  }
}

void ThreadPool::Impl::WorkerLoop() {
  const auto has_work = [this] { return stop.load() || Unpack(ticket.load()).HasWork(); };
  while (!stop.load(std::memory_order_relaxed)) {
    if (RunPiece()) continue;
    int left = spins;
    while (left-- > 0 && !has_work()) Pause();
    if (left >= 0) continue;
    std::unique_lock<std::mutex> lock(mutex);
    sleepers.fetch_add(1);
    work_arrived.wait(lock, has_work);
    sleepers.fetch_sub(1);
  }
}

void ThreadPool::Impl::WaitForJob(uint32_t pieces) {
  for (int left = spins; left > 0; --left) {
    if (done.load(std::memory_order_acquire) == pieces) return;
    Pause();
  }
  std::unique_lock<std::mutex> lock(mutex);
  // An exchange, here and for the ticket below: stored, then something else loaded. Emulators of
  // Arm on x86 let a plain store-release slip past a later load-acquire, which real cores do not.
  caller_sleeps.exchange(true);
  job_done.wait(lock, [this, pieces] { return done.load() == pieces; });
  caller_sleeps.store(false);
}

// Also where the constructor fails half-way: the system may refuse a thread.
ThreadPool::Impl::~Impl() {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    stop.store(true);
  }
  work_arrived.notify_all();
  for (size_t i = 0; workers != nullptr && i + 1 < threads; ++i) {
    if (workers[i].joinable()) workers[i].join();
  }
}

ThreadPool::ThreadPool(size_t threads) : impl_(new Impl) {
  impl_->threads = std::clamp<size_t>(threads, 1, kMaxThreads);
  // Spinning on a core that another thread of the pool needs only delays it.
  impl_->spins = impl_->threads <= std::thread::hardware_concurrency() ? kSpins : 0;
  if (impl_->threads == 1) return;
  impl_->workers.reset(new std::thread[impl_->threads - 1]);
  for (size_t i = 0; i + 1 < impl_->threads; ++i) {
    impl_->workers[i] = std::thread([impl = impl_.get()] { impl->WorkerLoop(); });
  }
}

ThreadPool::~ThreadPool() = default;

size_t ThreadPool::threads() const { return impl_->threads; }

void ThreadPool::ParallelFor(size_t n, size_t grain,
                             const std::function<void(size_t, size_t)>& body) {
  if (n == 0) return;
  const size_t pieces = std::min(n / std::max<size_t>(grain, 1), impl_->threads * kPiecesPerThread);
  // Also alone when called from inside of a body, or while another thread uses the pool.
  if (impl_->threads == 1 || pieces < 2 || impl_->busy.exchange(true)) return body(0, n);
  const uint32_t job = Unpack(impl_->ticket.load()).job + 1;
  impl_->body.store(&body);
  impl_->size.store(n);
  impl_->done.store(0);
  impl_->ticket.exchange(Pack({job, static_cast<uint16_t>(pieces), 0}));
  if (impl_->sleepers.load() > 0) {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->work_arrived.notify_all();
  }
  while (impl_->RunPiece()) {
  }
  impl_->WaitForJob(static_cast<uint32_t>(pieces));
  impl_->busy.store(false);
}

}  // namespace edge
