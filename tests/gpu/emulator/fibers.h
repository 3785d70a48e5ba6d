// The CUDA threads of a block as fibers in one thread of the processor: cheap to switch, the same order in every run.
//
// A fiber runs one CUDA thread after the other; only when one of them waits does another fiber begin the next.
#pragma once
#include <sys/mman.h>

#include "thread.h"
#ifndef __x86_64__
#include <ucontext.h>
#endif

static dim3 threadIdx;

namespace emu {

// Bytes of each fiber's stack, and at its end of what no one may touch.  The pages are an odd number, lest all fibers
// want the same entries of the table of pages.
constexpr size_t STACK = 17 << 12, GUARD = 4096;

struct Lock {};
struct Hold { explicit Hold(Lock&) {} };

struct Fiber : Thread {
    char* stack;
    bool begun;
#ifdef __x86_64__
    void* registers;    // on its stack, while it does not run
#else
    ucontext_t registers;
#endif
};

static Fiber fibers[MOST], outside, nobody;    // outside: the launch itself
static Fiber* self = &outside;
static Fiber *ready[MOST], *idle[MOST];    // a queue of those that may go on; a stack of those without a CUDA thread
static unsigned ready_first, ready_count, idle_count, started;
static bool backwards;    // whether blocks and threads start from the last

static void live();

#ifdef __x86_64__
// What a call may change is the caller's to keep, so only the rest has to be kept: no caller may look inside.
[[gnu::noipa]] static void switch_registers(Fiber& from, Fiber& to) {
    void **kept = &from.registers, *stack = to.registers;
    asm volatile(
        "pushq %%rbp\n\t"
        "leaq 1f(%%rip), %%rax\n\t"
        "pushq %%rax\n\t"
        "movq %%rsp, (%0)\n\t"
        "movq %1, %%rsp\n\t"
        "popq %%rax\n\t"
        "jmpq *%%rax\n"
        "1:\n\t"
        "popq %%rbp"
        : "+D"(kept), "+S"(stack)
        :
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}
static void prepare(Fiber& fiber) {
    // Different fibers keep their data at different places of a page, lest all want the same lines of the cache.
    void** top = (void**)(fiber.stack + STACK - (&fiber - fibers) % 32 * 192);
    top[-1] = nullptr;    // the address to which live() never returns
    top[-2] = (void*)live;
    fiber.registers = top - 2;
}
#else
static void switch_registers(Fiber& from, Fiber& to) { swapcontext(&from.registers, &to.registers); }
static void prepare(Fiber& fiber) {
    getcontext(&fiber.registers);
    fiber.registers.uc_stack.ss_sp = fiber.stack + GUARD;
    fiber.registers.uc_stack.ss_size = STACK - GUARD;
    makecontext(&fiber.registers, live, 0);
}
#endif

static inline void go_on_with(Fiber* next) {
    Fiber* last = self;
    self = next;
    switch_registers(*last, *next);
    threadIdx = self->index;
}

static Fiber* idle_fiber() {
    Fiber* fiber = idle[--idle_count];
    if (fiber->begun) return fiber;
    if (!fiber->stack) {
        void* pages = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED || mprotect(pages, GUARD, PROT_NONE)) fail("no memory for the stack of a thread");
        fiber->stack = (char*)pages;
    }
    prepare(*fiber);
    fiber->begun = true;
    return fiber;
}

static inline Fiber* next_fiber() {
    if (ready_count) {
        --ready_count;
        return ready[ready_first++ % MOST];
    }
    if (started == block_size) fail_deadlock();
    return idle_fiber();
}
static inline void wake(Thread* thread) { ready[(ready_first + ready_count++) % MOST] = static_cast<Fiber*>(thread); }
static inline void wait() { go_on_with(next_fiber()); }

static void live() {
    for (;;) {
        while (started < block_size) {
            const unsigned number = started++;
            begin(*self, backwards ? block_size - 1 - number : number);
            threadIdx = self->index;
            run_thread();
        }
        idle[idle_count++] = self;
        go_on_with(threads_alive ? next_fiber() : &outside);
    }
}

static void run_block() {
    if (!idle_count)
        for (Fiber& fiber : fibers) idle[idle_count++] = &fiber;
    started = 0;
    go_on_with(idle_fiber());
}

// The fibers stand in the middle of the kernel: forget them all, and begin anew on the same stacks.
static void stop() {
    for (Fiber& fiber : fibers) fiber.begun = false;
    idle_count = ready_count = 0;
    self = &nobody;
    go_on_with(&outside);
    __builtin_unreachable();
}

}  // namespace emu
