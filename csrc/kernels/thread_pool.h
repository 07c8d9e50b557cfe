// A small pool that shares out numbered work items by an atomic ticket.
//
// A static split (OpenMP) waits for the slowest thread, and on a busy machine that is one the scheduler has
// put aside. Here every thread, the caller included, takes the next item when it is free, so a worker that
// does not run costs nothing unless it already holds an item.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace streamchar {

class ThreadPool {
 public:
  // The process-wide pool. It is never destroyed, and is made anew in a forked child, whose copy of the
  // parent's pool has no threads.
  static ThreadPool& global();

  // `threads` counts the caller: 1 means no workers.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Waits for a run in progress, then changes the number of threads. 1 <= threads <= 1024.
  void resize(int threads);
  int threads() const;

  // The most threads, itself included, that runs of the calling thread take from any pool; 0: as many as there are.
  // Returns what it was. Nothing is started or joined, and other threads' runs are as before.
  static int limit_calling_thread(int threads);

  // Threads that a run of the calling thread may have.
  int available() const;

  // Calls body(item) once for every item in [0, items), in any order and on any thread, and returns when all
  // are done. `body` must not throw. Any thread may call; a call made while another one has the pool (also
  // from inside a body) does all its items itself.
  template <typename Body>
  void run(int items, const Body& body) {
    static_assert(std::is_nothrow_invocable_v<const Body&, int>, "a work item must be noexcept");
    run_items(items, [](const void* context, int item) noexcept { (*static_cast<const Body*>(context))(item); },
              &body);
  }

 private:
  using ItemFunction = void (*)(const void* context, int item) noexcept;
  struct State;

  void run_items(int items, ItemFunction function, const void* context);
  void run_parts(int items, ItemFunction function, const void* context);  // more than a ticket can count

  std::unique_ptr<State> state_;
};

}  // namespace streamchar
