// What the emulator knows of a CUDA thread and of the block that runs, and how it says what went wrong.
#pragma once
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct dim3 { unsigned x, y, z; };

static dim3 gridDim, blockDim, blockIdx;

namespace emu {

constexpr unsigned MOST = 1024;     // threads in a block
constexpr unsigned COPIES = 128;    // asynchronous copies of one thread that may be under way

struct Copy { void* to; const void* from; unsigned group; };   // from null: zeros
struct Place { const char* name; unsigned line; };             // what a thread waits at; name null: it runs

struct Thread {
    unsigned number;      // in the block, x fastest
    dim3 index;
    unsigned copies, groups;    // asynchronous copies under way, and groups of them that were committed
};

static unsigned block_size, threads_alive;    // of the block; those not yet started are alive
static Place places[MOST];                    // by number
static Copy copies[MOST][COPIES];             // by number
static bool failed;
static char message[2000];                    // what went wrong first, if failed
static const char RETURNED[] = "returned";

[[noreturn]] static void stop();    // leave this thread and the block for good
static void run_thread();           // the kernel, as the thread `self`

static inline void begin(Thread& thread, unsigned number) {
    thread.number = number;
    thread.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
    thread.copies = thread.groups = 0;
}

[[noreturn, gnu::format(printf, 1, 2), gnu::noinline, gnu::cold]] static void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    if (!__atomic_test_and_set(&failed, __ATOMIC_RELAXED)) vsnprintf(message, sizeof message, format, values);
    va_end(values);
    stop();
}

[[noreturn, gnu::noinline, gnu::cold]] static void fail_deadlock() {
    char text[1500];
    unsigned used = 0;
    for (unsigned first = 0, next; first < block_size && used + 100 < sizeof text; first = next) {
        const auto [name, line] = places[first];
        for (next = first + 1; next < block_size && places[next].name == name && places[next].line == line;) ++next;
        used += sprintf(text + used, first ? ", threads %u-%u " : "threads %u-%u ", first, next - 1);
        if (name == RETURNED) used += sprintf(text + used, "have returned");
        else used += sprintf(text + used, "wait at %.30s in line %u", name, line);
    }
    fail("deadlock: %s", text);
}

}  // namespace emu
