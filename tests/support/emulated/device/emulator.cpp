// The emulated device itself: see emulator.h.
#include "emulator.h"
#include "fiber.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
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

enum State { RUNS, WAITS, ENDED };
constexpr size_t STACK = 64 << 10;

struct Block;
struct Thread {
  Fiber stack;
  Place place;
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
  unsigned waiting = 0, ended = 0, phase = 0;
  long barrier[2];  // one for even barriers and one for odd: a missing barrier must not look like the one before it
};

thread_local Place* now;
thread_local Index grid, block;
static thread_local Thread* running;
static thread_local Fiber scheduler;
static thread_local void* scheduler_fiber;
static thread_local void (*body)(const void*);
static thread_local const void* argument;
alignas(16) static long beginning[2], ending[2];

static void switch_to_scheduler() {
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(scheduler_fiber, 1);
#endif
  change_fiber(&running->stack, &scheduler);
}

static void run_thread() {
  ACQUIRE(beginning);
  body(argument);
  RELEASE(ending);
  {
    Unseen unseen;
    running->state = ENDED;
    running->block->ended++;
  }
  switch_to_scheduler();
}

void barrier() {
  Unseen unseen;
  Block* b = running->block;
  long* at = &b->barrier[b->phase & 1];
  RELEASE(at);
  if (++b->waiting == b->threads.size()) {
    b->waiting = 0;
    b->phase++;
    for (Thread& t : b->threads) if (t.state == WAITS) t.state = RUNS;
  } else {
    running->state = WAITS;
    switch_to_scheduler();
  }
  ACQUIRE(at);
}

void fence() {
  running->fenced = true;
  if (running->seen) ACQUIRE(running->seen);
}

unsigned add(unsigned* at, unsigned v) {
  unsigned before = __atomic_fetch_add(at, v, __ATOMIC_RELAXED);
  if (running->fenced) RELEASE(at);
  running->seen = at;
  return before;
}

// Runs one block to its end; returns what went wrong, or null.
static const char* run_block(Block& b, unsigned order, std::mt19937& random) {
  std::vector<Thread*> threads;
  for (Thread& t : b.threads) threads.push_back(&t);
  if (order == 1) std::reverse(threads.begin(), threads.end());
  while (b.ended < threads.size()) {
    if (order > 1) std::shuffle(threads.begin(), threads.end(), random);
    bool any = false;
    for (Thread* t : threads) {
      if (t->state != RUNS) continue;
      any = true;
      running = t;
      now = &t->place;
#ifdef __SANITIZE_THREAD__
      __tsan_switch_to_fiber(t->fiber, 1);
#endif
      change_fiber(&scheduler, &t->stack);
      if (t->state == ENDED && b.waiting) return "a thread ended before a barrier at which others wait";
    }
    if (!any) return "threads wait at a barrier that some never reach";
  }
  return nullptr;
}

const char* launch(Index grid_, Index block_, unsigned long shared, unsigned order, void (*body_)(const void*),
                   const void* argument_) {
  Unseen unseen;
  grid = grid_;
  block = block_;
  body = body_;
  argument = argument_;
  RELEASE(beginning);
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
#ifdef __SANITIZE_THREAD__
  // All fibers are made before the first runs and go after the last: to make one, or to destroy it, orders things.
  std::vector<void*> fibers(numbers.size() * block.x);
  for (void*& fiber : fibers) fiber = __tsan_create_fiber(0);
  std::vector<std::vector<std::vector<char>>> kept;  // ThreadSanitizer would take one block's use of a stack for another's
#endif
  std::deque<Block> blocks;
  const char* wrong = nullptr;
  for (unsigned number : numbers) {
#ifdef __SANITIZE_THREAD__
    kept.push_back(std::move(stacks));
    stacks.assign(block.x, std::vector<char>(STACK));
#endif
    Block& b = blocks.emplace_back();  // each at an address of its own: its barriers order its own threads
    b.index = {number % grid.x, number / grid.x, 0};
    b.threads.resize(block.x);
    b.shared = (unsigned char*)malloc(shared);
    memset(b.shared, 0xff, shared);
    for (unsigned k = 0; k < block.x; k++) {
      Thread& t = b.threads[k];
      t.place = {{k, 0, 0}, b.index, b.shared};
      t.state = RUNS;
      t.block = &b;
      t.seen = nullptr;
      t.fenced = false;
      begin_fiber(t.stack, stacks[k].data(), STACK, run_thread);
#ifdef __SANITIZE_THREAD__
      t.fiber = fibers[number * block.x + k];
#endif
    }
    wrong = run_block(b, order, random);
    free(b.shared);
#ifndef __SANITIZE_THREAD__
    blocks.clear();
#endif
    if (wrong) break;
  }
#ifdef __SANITIZE_THREAD__
  for (void* fiber : fibers) __tsan_destroy_fiber(fiber);
#endif
  ACQUIRE(ending);
  return wrong;
}

}  // namespace emulator

