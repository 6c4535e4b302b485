// Fibers: stacks that a host thread changes between. By hand where the processor is known, since a kernel of some
// hundred thousand threads changes as often; by ucontext elsewhere, which asks the operating system each time.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)

struct Fiber { void* stack_pointer; };

// Keeps what a called function must leave as it was, changes the stack, and goes on there.
asm(R"(
.text
.type change_fiber, @function
change_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void change_fiber(Fiber* from, Fiber* to) __attribute__((visibility("hidden")));

inline void begin_fiber(Fiber& fiber, char* stack, size_t size, void (*function)()) {
  void** top = (void**)(((uintptr_t)stack + size) & ~(uintptr_t)15);
  top[-2] = (void*)function;  // where `ret` goes; the stack is then aligned as after a call
  for (int i = 3; i < 9; i++) top[-i] = nullptr;
  fiber.stack_pointer = top - 8;
}

#else
#include <ucontext.h>

struct Fiber { ucontext_t context; };

inline void change_fiber(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }

inline void begin_fiber(Fiber& fiber, char* stack, size_t size, void (*function)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, function, 0);
}
#endif
