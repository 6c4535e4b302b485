// A CUDA device on a CPU: every thread of a block is a fiber, which runs until it comes to a barrier or ends.
//
// As much of CUDA as batch_norm.cu uses: blocks and threads, shared memory, __syncthreads, atomicAdd, __threadfence. The
// order of threads and blocks can be chosen, so that a result which depends on it shows. Shared memory begins as NaN.
// Built with -fsanitize=thread, ThreadSanitizer sees what orders what: a barrier orders the threads of a block, and a
// fence before an atomic operation hands over what was written before it to a fence behind one that saw it; the order
// in which fibers happen to run orders nothing.
#pragma once

namespace emulator {

struct Index { unsigned x, y, z; };
struct Block;
// Where a thread is: what the kernel sees of it.
struct Place {
  Index thread, block;
  unsigned char* shared;
};
extern thread_local Place* now;
extern thread_local Index grid, block;

void barrier();
void fence();
unsigned add(unsigned* at, unsigned v);

// Runs a kernel; order 0 is ascending, 1 descending, any other a seed. Returns what went wrong, or null.
const char* launch(Index grid, Index block, unsigned long shared, unsigned order, void (*body)(const void*), const void* argument);

}  // namespace emulator
