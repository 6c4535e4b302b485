// A CUDA device on a CPU: every thread of a block is a fiber, which runs until it comes to a barrier or ends.
//
// As much of CUDA as batch_norm.cu uses: blocks and threads, shared memory, __syncthreads, atomicAdd, __threadfence. The
// order of threads and blocks can be chosen, so that a result which depends on it shows. Shared memory begins as NaN.
// Built with -fsanitize=thread, ThreadSanitizer sees what orders what: a barrier orders the threads of a block, and a
// fence before an atomic operation hands over what was written before it to a fence behind one that saw it; the order
// in which fibers happen to run orders nothing.
#pragma once
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#define ACQUIRE(of) __tsan_acquire((void*)(of))
#define RELEASE(of) __tsan_release((void*)(of))
// What the emulator itself reads and writes is no business of the kernel's.
struct Unseen {
  Unseen() { AnnotateIgnoreReadsBegin("", 0); AnnotateIgnoreWritesBegin("", 0); }
  ~Unseen() { AnnotateIgnoreWritesEnd("", 0); AnnotateIgnoreReadsEnd("", 0); }
};
#else
#define ACQUIRE(of) (void)0
#define RELEASE(of) (void)0
struct Unseen { Unseen() {} };
#endif

namespace emulator {

struct Index { unsigned x, y, z; };
enum State { RUNS, WAITS, ENDED };
constexpr size_t STACK = 64 << 10;

struct Block;
struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  Index index;
  State state;
  Block* block;
  void* fiber;
  void* seen;   // the atomic that this thread used last
  bool fenced;  // since then it came to a fence
};
struct Block {
  Index index;
  std::vector<Thread> threads;
  unsigned char* shared;
  unsigned waiting, ended, phase;
  char barrier[2];  // one for even barriers and one for odd: a missing barrier must not look like the one before it
};

inline thread_local Thread* now;
inline thread_local Index grid, block;
inline thread_local ucontext_t scheduler;
inline thread_local void* scheduler_fiber;
inline thread_local void (*body)(void*);
inline thread_local void* argument;
inline int beginning, ending;

inline void switch_to_scheduler() {
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(scheduler_fiber, 1);
#endif
  swapcontext(&now->context, &scheduler);
}

inline void run_thread() {
  ACQUIRE(&beginning);
  body(argument);
  RELEASE(&ending);
  {
    Unseen unseen;
    now->state = ENDED;
    now->block->ended++;
  }
  switch_to_scheduler();
}

inline void barrier() {
  Unseen unseen;
  Block* b = now->block;
  char* at = &b->barrier[b->phase & 1];
  RELEASE(at);
  if (++b->waiting == b->threads.size()) {
    b->waiting = 0;
    b->phase++;
    for (Thread& t : b->threads) if (t.state == WAITS) t.state = RUNS;
  } else {
    now->state = WAITS;
    switch_to_scheduler();
  }
  ACQUIRE(at);
}

inline void fence() {
  now->fenced = true;
  if (now->seen) ACQUIRE(now->seen);
}

inline unsigned add(unsigned* at, unsigned v) {
  if (now->fenced) RELEASE(at);
  unsigned before = __atomic_fetch_add(at, v, __ATOMIC_RELAXED);
  now->seen = at;
  return before;
}

// Runs one block to its end; returns what went wrong, or null.
inline const char* run_block(Block& b, unsigned order, std::mt19937& random) {
  std::vector<Thread*> threads;
  for (Thread& t : b.threads) threads.push_back(&t);
  if (order == 1) std::reverse(threads.begin(), threads.end());
  while (b.ended < threads.size()) {
    if (order > 1) std::shuffle(threads.begin(), threads.end(), random);
    bool any = false;
    for (Thread* t : threads) {
      if (t->state != RUNS) continue;
      any = true;
      now = t;
#ifdef __SANITIZE_THREAD__
      __tsan_switch_to_fiber(t->fiber, 1);
#endif
      swapcontext(&scheduler, &t->context);
      if (t->state == ENDED && b.waiting) return "a thread ended before a barrier at which others wait";
    }
    if (!any) return "threads wait at a barrier that some never reach";
  }
  return nullptr;
}

// Launches of one host thread; order 0 is ascending, 1 descending, any other a seed.
inline const char* launch(Index grid_, Index block_, size_t shared, unsigned order, void (*body_)(void*), void* argument_) {
  Unseen unseen;
  grid = grid_;
  block = block_;
  body = body_;
  argument = argument_;
  RELEASE(&beginning);
#ifdef __SANITIZE_THREAD__
  scheduler_fiber = __tsan_get_current_fiber();
#endif
  std::mt19937 random(order);
  std::vector<unsigned> numbers(grid.x * grid.y);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (order == 1) std::reverse(numbers.begin(), numbers.end());
  if (order > 1) std::shuffle(numbers.begin(), numbers.end(), random);
  static thread_local std::vector<std::vector<char>> stacks;
  if (stacks.size() < block.x) stacks.resize(block.x, std::vector<char>(STACK));
  const char* wrong = nullptr;
  for (unsigned number : numbers) {
    Block b{{number % grid.x, number / grid.x, 0}, std::vector<Thread>(block.x), (unsigned char*)malloc(shared + 1), 0, 0, 0, {}};
    memset(b.shared, 0xff, shared);
    for (unsigned k = 0; k < block.x; k++) {
      Thread& t = b.threads[k];
      t.index = {k, 0, 0};
      t.state = RUNS;
      t.block = &b;
      t.seen = nullptr;
      t.fenced = false;
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = stacks[k].data();
      t.context.uc_stack.ss_size = STACK;
      t.context.uc_link = nullptr;
      makecontext(&t.context, run_thread, 0);
#ifdef __SANITIZE_THREAD__
      t.fiber = __tsan_create_fiber(0);
#endif
    }
    wrong = run_block(b, order, random);
#ifdef __SANITIZE_THREAD__
    for (Thread& t : b.threads) __tsan_destroy_fiber(t.fiber);
#endif
    free(b.shared);
    if (wrong) break;
  }
  ACQUIRE(&ending);
  return wrong;
}

}  // namespace emulator

// CUDA's words.
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads)
#define threadIdx (emulator::now->index)
#define blockIdx (emulator::now->block->index)
#define blockDim (emulator::block)
#define gridDim (emulator::grid)
#define __syncthreads() emulator::barrier()
#define __threadfence() emulator::fence()
#define atomicAdd(at, v) emulator::add(at, v)

// What batch_norm.cu asks of a host in place of the device's instructions.
#define BN_HOST
#define BN_DEV inline
#define BN_SHARED(name) unsigned char* name = emulator::now->block->shared
inline float float_of(unsigned bits) { float v; memcpy(&v, &bits, 4); return v; }
inline unsigned bits_of(float v) { unsigned bits; memcpy(&bits, &v, 4); return bits; }
inline float half_to_float(unsigned short bits) { _Float16 v; memcpy(&v, &bits, 2); return (float)v; }
inline unsigned short float_to_half(float v) { _Float16 half = (_Float16)v; unsigned short bits; memcpy(&bits, &half, 2); return bits; }
inline float toward_zero(double v) {
  float near = (float)v;
  return std::fabs((double)near) > std::fabs(v) ? float_of(bits_of(near) - 1) : near;  // infinity becomes the largest number
}
using std::fma;
using std::sqrt;
