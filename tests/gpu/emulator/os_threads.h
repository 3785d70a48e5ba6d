// The CUDA threads of a block as threads of the operating system, all at once: what a sanitizer can watch.
//
// Each meeting place has a lock of its own, so that what is in order for one warp says nothing about another.
#pragma once
#include <atomic>
#include <mutex>
#include <semaphore>
#include <thread>

#include "thread.h"

static thread_local dim3 threadIdx;

namespace emu {

using Lock = std::mutex;
using Hold = std::lock_guard<std::mutex>;

struct Stopped {};
struct Bell { std::counting_semaphore<> semaphore{0}; };

static Thread threads[MOST];
static thread_local Thread* self;
static Bell start[MOST], go_on[MOST], done;    // by number: for the next block, and after waiting in one
static unsigned at_hand;                       // threads of the system, which serve one block after the other
// How many threads run, and in the upper half how many run or wait; relaxed, for it must put nothing else in order.
static std::atomic<unsigned> counts;
constexpr unsigned RUNNING = 0xffff, ALIVE = 0x10000;
static std::atomic<bool> stopped;
static bool backwards;

static inline void wake(Thread* thread) {
    counts.fetch_add(1, std::memory_order_relaxed);
    go_on[thread->number].semaphore.release();
}
static inline void wait() {
    if ((counts.fetch_sub(1, std::memory_order_relaxed) & RUNNING) == 1) fail_deadlock();
    go_on[self->number].semaphore.acquire();
    if (stopped) throw Stopped{};
}
static void stop() {
    if (!stopped.exchange(true))
        for (unsigned i = 0; i < block_size; ++i) go_on[i].semaphore.release();
    throw Stopped{};
}

static void live(unsigned number) try {
    self = &threads[number];
    begin(*self, number);
    threadIdx = self->index;
    run_thread();
    const unsigned left = counts.fetch_sub(ALIVE + 1, std::memory_order_relaxed) - (ALIVE + 1);
    if (left && !(left & RUNNING)) fail_deadlock();
} catch (Stopped) {
}

[[noreturn]] static void serve(unsigned number) {
    for (;;) {
        start[number].semaphore.acquire();
        live(number);
        done.semaphore.release();
    }
}

static void run_block() {
    for (; at_hand < block_size; ++at_hand) std::thread(serve, at_hand).detach();
    counts = block_size * (ALIVE + 1);
    if (stopped.exchange(false))
        for (Bell& bell : go_on)
            while (bell.semaphore.try_acquire()) {}
    for (unsigned i = 0; i < block_size; ++i) start[backwards ? block_size - 1 - i : i].semaphore.release();
    for (unsigned i = 0; i < block_size; ++i) done.semaphore.acquire();
}

}  // namespace emu
