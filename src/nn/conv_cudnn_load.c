/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls of cuDNN that nn/conv_cudnn*.c make, each passed on to libcudnn.so.9, which the first one loads: a program
 * that can use cuDNN starts without it. Without the library cudnnGetVersion() is 0 and cudnnGetLastErrorString() says
 * why, so that a handle is never made and nothing else is called. The library stays until the program ends; looking a
 * name up again each time costs a microsecond where the work is recorded once in a CUDA graph.
 */
#include <cudnn_graph.h>
#include <dlfcn.h>
#include <stdio.h>

/* The address of a function in cuDNN, or NULL; dlerror() then tells. */
static void *find(const char *name)
{
    void *library = dlopen("libcudnn.so.9", RTLD_LAZY | RTLD_LOCAL);
    return library ? dlsym(library, name) : NULL;
}

/* POSIX lets a function's address pass through void *, ISO C does not, so it is copied. */
#define FIND(function)                                                                                                 \
    union {                                                                                                            \
        void *address;                                                                                                 \
        __typeof__(&(function)) call;                                                                                  \
    } found = {find(#function)}

#define PASS_ON(function, ...)                                                                                         \
    FIND(function);                                                                                                    \
    return found.address ? found.call(__VA_ARGS__) : CUDNN_STATUS_NOT_INITIALIZED

size_t CUDNNWINAPI cudnnGetVersion(void)
{
    FIND(cudnnGetVersion);
    return found.address ? found.call() : 0;
}

const char *CUDNNWINAPI cudnnGetErrorString(cudnnStatus_t status)
{
    FIND(cudnnGetErrorString);
    return found.address ? found.call(status) : "cuDNN is not loaded";
}

void CUDNNWINAPI cudnnGetLastErrorString(char *message, size_t max_size)
{
    FIND(cudnnGetLastErrorString);
    if (found.address) {
        found.call(message, max_size);
        return;
    }
    const char *why = dlerror();
    snprintf(message, max_size, "%s", why ? why : "it lacks a function of version 9");
}

cudnnStatus_t CUDNNWINAPI cudnnCreate(cudnnHandle_t *handle)
{
    PASS_ON(cudnnCreate, handle);
}

cudnnStatus_t CUDNNWINAPI cudnnDestroy(cudnnHandle_t handle)
{
    PASS_ON(cudnnDestroy, handle);
}

cudnnStatus_t CUDNNWINAPI cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    PASS_ON(cudnnSetStream, handle, stream);
}

cudnnStatus_t CUDNNWINAPI cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                       cudnnBackendDescriptor_t *descriptor)
{
    PASS_ON(cudnnBackendCreateDescriptor, type, descriptor);
}

cudnnStatus_t CUDNNWINAPI cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor)
{
    PASS_ON(cudnnBackendDestroyDescriptor, descriptor);
}

cudnnStatus_t CUDNNWINAPI cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor)
{
    PASS_ON(cudnnBackendFinalize, descriptor);
}

cudnnStatus_t CUDNNWINAPI cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                                   int64_t count, const void *elements)
{
    PASS_ON(cudnnBackendSetAttribute, descriptor, name, type, count, elements);
}

cudnnStatus_t CUDNNWINAPI cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
                                                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                                   int64_t requested, int64_t *count, void *elements)
{
    PASS_ON(cudnnBackendGetAttribute, descriptor, name, type, requested, count, elements);
}

cudnnStatus_t CUDNNWINAPI cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                              cudnnBackendDescriptor_t pack)
{
    PASS_ON(cudnnBackendExecute, handle, plan, pack);
}
