#include "kernels/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace streamchar {
namespace {

// Long enough to bridge the gap between two kernels of one layer, short enough not to heat an idle machine.
constexpr auto kSpinTime = std::chrono::microseconds(60);

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins for a bounded time; true as soon as `ready()` is.
template <typename Ready>
bool spin_until(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

int usable_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

int default_threads() {
  if (const char* text = std::getenv("STREAMCHAR_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1 && n <= 1024) return n;
  }
  return usable_cpus();
}

thread_local int thread_limit = 0;

std::atomic<ThreadPool*> global_pool{nullptr};
std::mutex global_mutex;

void register_fork_handlers() {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork([] { global_mutex.lock(); }, [] { global_mutex.unlock(); },
                 [] {
                   global_pool.store(nullptr);  // leaked: its threads are the parent's
                   global_mutex.unlock();
                 });
#endif
}

// The items of a run that are not yet taken, [first, last), and the number of the run, so one compare-and-swap
// both takes an item and proves that it is of the run the worker believes in. The caller leaves a run only after every
// taken item is done, so `function` and `context` stay valid for their holder.
//
// Half of the threads take items from the front and half from the back. Of two threads each so keeps to its own end from
// one kernel to the next, and finds in its second-level cache what it wrote there: the keys of its heads, say.
class Ticket {
 public:
  static constexpr int kItemBits = 16;
  static constexpr int kMostItems = (1 << kItemBits) - 1;

  explicit Ticket(uint64_t bits) : bits_(bits) {}
  Ticket(uint32_t run, int items) : bits_(uint64_t{run} << 2 * kItemBits | static_cast<uint64_t>(items)) {}

  bool is_of(uint32_t run) const { return static_cast<uint32_t>(bits_ >> 2 * kItemBits) == run; }
  bool empty() const { return first() == last(); }
  int item(bool front) const { return front ? first() : last() - 1; }
  uint64_t without(bool front) const { return front ? bits_ + (uint64_t{1} << kItemBits) : bits_ - 1; }
  uint64_t bits() const { return bits_; }

 private:
  int first() const { return static_cast<int>(bits_ >> kItemBits & kMostItems); }
  int last() const { return static_cast<int>(bits_ & kMostItems); }

  uint64_t bits_;
};

}  // namespace

struct ThreadPool::State {
  std::atomic<uint64_t> ticket{0};
  std::atomic<uint32_t> run_number{0};  // what sleeping workers wait on
  std::atomic<uint32_t> done{0};
  std::atomic<int> wanted{0};  // workers that the run may have: the first ones
  ItemFunction function = nullptr;
  const void* context = nullptr;
  std::atomic<bool> stop{false};
  std::mutex busy;  // held by the caller that has the pool
  std::atomic<int> threads{1};
  std::vector<std::thread> workers;

  // Takes and does items of run `number` until none is left.
  void take_items(uint32_t number, bool front) {
    uint64_t seen = ticket.load(std::memory_order_acquire);
    while (Ticket(seen).is_of(number) && !Ticket(seen).empty()) {
      if (!ticket.compare_exchange_weak(seen, Ticket(seen).without(front), std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        continue;
      }
      function(context, Ticket(seen).item(front));
      done.fetch_add(1, std::memory_order_acq_rel);
      done.notify_one();
      seen = ticket.load(std::memory_order_acquire);
    }
  }

  // `last` is the run number when the worker was made: one that starts late must still see every change.
  void work(int worker, uint32_t last) {
    for (;;) {
      const auto changed = [&] { return run_number.load(std::memory_order_acquire) != last; };
      if (!spin_until(changed)) run_number.wait(last, std::memory_order_acquire);
      // In this order: whoever has seen the number that join() raised sees `stop` as well, and cannot wait for another.
      last = run_number.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      if (worker < wanted.load(std::memory_order_relaxed)) take_items(last, worker % 2 == 1);
    }
  }

  void start(int count) {
    stop.store(false);
    const uint32_t last = run_number.load();
    for (int i = 1; i < count; ++i) workers.emplace_back([this, i, last] { work(i - 1, last); });
    threads.store(count);
  }

  void join() {
    stop.store(true, std::memory_order_release);
    run_number.fetch_add(1, std::memory_order_acq_rel);
    run_number.notify_all();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) { state_->start(threads); }

ThreadPool::~ThreadPool() { state_->join(); }

ThreadPool& ThreadPool::global() {
  if (ThreadPool* pool = global_pool.load(std::memory_order_acquire)) return *pool;
  static std::once_flag once;
  std::call_once(once, register_fork_handlers);
  const std::lock_guard lock(global_mutex);
  if (global_pool.load() == nullptr) global_pool.store(new ThreadPool(default_threads()), std::memory_order_release);
  return *global_pool.load();
}

void ThreadPool::resize(int threads) {
  const std::lock_guard lock(state_->busy);
  if (threads == state_->threads.load()) return;
  state_->join();
  state_->start(threads);
}

int ThreadPool::threads() const { return state_->threads.load(); }

int ThreadPool::limit_calling_thread(int threads) { return std::exchange(thread_limit, threads); }

int ThreadPool::available() const { return thread_limit > 0 ? std::min(thread_limit, threads()) : threads(); }

void ThreadPool::run_parts(int items, ItemFunction function, const void* context) {
  struct Part {
    ItemFunction function;
    const void* context;
    int first;
  };
  for (int64_t first = 0; first < items; first += Ticket::kMostItems) {
    const Part part{function, context, static_cast<int>(first)};
    run_items(static_cast<int>(std::min<int64_t>(Ticket::kMostItems, items - first)),
              [](const void* of, int item) noexcept {
                const auto& part = *static_cast<const Part*>(of);
                part.function(part.context, part.first + item);
              },
              &part);
  }
}

void ThreadPool::run_items(int items, ItemFunction function, const void* context) {
  if (items <= 0) return;
  if (items > Ticket::kMostItems) return run_parts(items, function, context);
  State& state = *state_;
  std::unique_lock lock(state.busy, std::defer_lock);
  const int threads = available();
  if (items == 1 || threads == 1 || !lock.try_lock()) {
    for (int item = items - 1; item >= 0; --item) function(context, item);
    return;
  }
  const uint32_t number = state.run_number.load(std::memory_order_relaxed) + 1;
  state.function = function;
  state.context = context;
  state.done.store(0, std::memory_order_relaxed);
  state.wanted.store(threads - 1, std::memory_order_relaxed);
  state.ticket.store(Ticket(number, items).bits(), std::memory_order_release);
  state.run_number.store(number);  // not to be passed by the look at who waits
  state.run_number.notify_all();

  state.take_items(number, true);
  const auto finished = [&] { return state.done.load(std::memory_order_acquire) == static_cast<uint32_t>(items); };
  if (!spin_until(finished)) {
    for (uint32_t seen; (seen = state.done.load(std::memory_order_acquire)) != static_cast<uint32_t>(items);) {
      state.done.wait(seen, std::memory_order_acquire);
    }
  }
}

}  // namespace streamchar
