// Helpers sleep on a condition variable; parts are claimed from one atomic word that also names the job, so that a helper
// that wakes late finds its job gone and touches nothing.
#include "workers.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

namespace bev {
namespace {

// The ticket of a job: its number in the high half, below it how many parts were taken from the back and from the front.
constexpr int kJobShift = 32, kBackShift = 16;
constexpr uint64_t kFront = 1, kBack = 1 << kBackShift;
constexpr int64_t kMaxParts = kBack - 1;
constexpr int kSpins = 256;   // before the caller gives up its turn while a helper finishes

struct Job {
  void (*body)(const void *, int64_t);
  const void *context;
  int64_t num_parts;
  uint64_t number;
};

class Workers {
public:
  Workers() : owner_(getpid()) {}

  bool of_this_process() const { return owner_ == getpid(); }

  // False if another caller is being helped.
  bool run(Job job, int64_t num_helpers) {
    if (job.num_parts > kMaxParts || busy_.test_and_set(std::memory_order_acquire)) return false;
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      start(num_helpers);
      job.number = ++number_ & UINT32_MAX;
      job_ = job;
      places_ = num_helpers;
      done_.store(0, std::memory_order_relaxed);
      ticket_.store(job.number << kJobShift, std::memory_order_release);
    }
    if (num_helpers == 1)
      wake_.notify_one();
    else
      wake_.notify_all();
    work(job, kFront);
    for (int spins = 0; done_.load(std::memory_order_acquire) != job.num_parts; ++spins)
      if (spins > kSpins) std::this_thread::yield();
    busy_.clear(std::memory_order_release);
    return true;
  }

private:
  void start(int64_t num_helpers) {
    try {
      for (; num_started_ < num_helpers; ++num_started_) std::thread(&Workers::help, this).detach();
    } catch (...) { // no more threads to be had: those that are there help
    }
  }

  void help() {
    uint64_t last = 0;
    for (;;) {
      Job job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return job_.number != last && places_ > 0; });
        --places_;
        job = job_;
      }
      last = job.number;
      work(job, kBack);
    }
  }

  // The caller takes parts from the front and helpers from the back, so that what a processor has in its caches from the last
  // call is mostly what it needs in the next.
  void work(const Job &job, uint64_t side) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (ticket >> kJobShift == job.number) {
      const int64_t front = ticket & kMaxParts, back = ticket >> kBackShift & kMaxParts;
      if (front + back >= job.num_parts) return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + side, std::memory_order_acq_rel)) continue;
      job.body(job.context, side == kFront ? front : job.num_parts - 1 - back);
      done_.fetch_add(1, std::memory_order_acq_rel);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  const pid_t owner_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Job job_{};
  uint64_t number_ = 0;
  int64_t places_ = 0, num_started_ = 0;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> done_{0};
};

// Never destroyed: detached helpers may still sleep in it when the process ends. What a parent of fork() had is left alone,
// since its helpers do not exist in the child.
std::atomic<Workers *> shared{nullptr};

Workers *workers() {
  Workers *current = shared.load(std::memory_order_acquire);
  if (current && current->of_this_process()) return current;
  Workers *fresh = new (std::nothrow) Workers();
  if (!fresh) return nullptr;
  if (shared.compare_exchange_strong(current, fresh, std::memory_order_acq_rel)) return fresh;
  delete fresh; // another thread was first
  return current;
}

} // namespace

void run_parts(int64_t num_parts, int64_t num_threads, void (*body)(const void *, int64_t), const void *context) {
  if (num_threads > 1 && num_parts > 1) {
    Workers *const helpers = workers();
    const int64_t wanted = (num_threads < num_parts ? num_threads : num_parts) - 1;
    if (helpers && helpers->run({body, context, num_parts, 0}, wanted)) return;
  }
  for (int64_t part = 0; part < num_parts; ++part) body(context, part);
}

} // namespace bev
