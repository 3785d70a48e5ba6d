// Stochastic gradient descent on all parameters in one launch.
//
// table (parameters, 4): where value, gradient and velocity (or 0) lie, and how many numbers each has. chunks
// (blocks, 2): which parameter a block works on, and which 1024 of its numbers. scaling, for gradients of a loss that
// was multiplied so that they do not vanish in half precision: the factor, steps since it last changed, steps skipped
// in a row, and whether a gradient of this step is not finite.

// settings: learning rate, momentum, weight decay, Nesterov or not; on the device, so that a captured graph follows a
// schedule.
extern "C" __global__ void __launch_bounds__(256)
    descend(const long long* table, const int* chunks, const float* settings, const float* scaling) {
    if (scaling && scaling[3] != 0.f) return;
    const long long* const of = table + 4 * chunks[2 * blockIdx.x];
    float* const value = (float*)of[0];
    const float* const grad = (const float*)of[1];
    float* const velocity = (float*)of[2];
    const float lr = settings[0], momentum = settings[1], decay = settings[2];
    const float unscale = scaling ? 1.f / scaling[0] : 1.f;
    const long long first = chunks[2 * blockIdx.x + 1] * 1024LL;
    for (long long i = first + threadIdx.x; i < min(first + 1024, of[3]); i += 256) {
        const float g = grad[i] * unscale + decay * value[i];
        float along = g;
        if (velocity) {
            const float v = momentum * velocity[i] + g;
            velocity[i] = v;
            along = settings[3] != 0.f ? g + momentum * v : v;
        }
        value[i] -= lr * along;
    }
}

// Note in scaling[3] whether a gradient is infinite or NaN.  Whoever writes, writes the same; `adjust_scaling` clears
// it.
extern "C" __global__ void __launch_bounds__(256)
    find_overflow(const long long* table, const int* chunks, float* scaling) {
    const long long* const of = table + 4 * chunks[2 * blockIdx.x];
    const float* const grad = (const float*)of[1];
    const long long first = chunks[2 * blockIdx.x + 1] * 1024LL;
    bool finite = true;
    for (long long i = first + threadIdx.x; i < min(first + 1024, of[3]); i += 256)
        finite = finite && fabsf(grad[i]) <= 3.4028235e38f;  // false for a NaN
    if (!finite) atomicExch((int*)(scaling + 3), __float_as_int(1.f));
}

// After a step: halve the factor if it was skipped, double it after `patience` steps that were not.  One thread.
extern "C" __global__ void adjust_scaling(float* scaling, int patience) {
    const bool skipped = scaling[3] != 0.f;
    scaling[1] = skipped ? 0.f : scaling[1] + 1.f;
    scaling[2] = skipped ? scaling[2] + 1.f : 0.f;
    scaling[3] = 0.f;
    if (skipped) {
        scaling[0] = fmaxf(scaling[0] * 0.5f, 1.f);
    } else if (scaling[1] >= patience) {
        scaling[0] = fminf(scaling[0] * 2.f, 16777216.f);
        scaling[1] = 0.f;
    }
}
