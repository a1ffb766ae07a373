/* The part of CPython's state that uGreen must keep for each of its stacks, but does not.

   uGreen runs each request on a C stack of its own, all of them in one thread
   and with that thread's PyThreadState. At each change of stacks, uWSGI's Python
   plugin saves and restores the frame and the recursion depth (its functions
   uwsgi_python_suspend() and uwsgi_python_resume()). That was enough for Python 2.
   The plugin does not save the exceptions being handled, the context variables,
   and from Python 3.11 on the memory of frames. So two requests write over each
   other's frames, and the worker crashes. From 2.0.27 on, uWSGI also always uses
   the GIL, and waits for ever for the GIL that the suspended request holds.

   So install() wraps the two functions, and the wrappers save the rest. uWSGI calls
   them at each change of stacks, whether psycogreen, the application, or uWSGI
   itself (reading a request's body) causes it. */

#include <Python.h> /* first: it defines _GNU_SOURCE, for RTLD_DEFAULT */

#include <dlfcn.h>

#ifdef __linux__
#include <sys/timerfd.h>
#endif

typedef void (*hook)(void *request);

/* uWSGI's own functions, and its function that returns the running request. */
static hook uwsgi_suspend, uwsgi_resume;
static void *(*uwsgi_current)(void);

/* The uwsgi module's functions. */
static PyObject *wait_fd_read, *suspend_request;

/* The state of the thread in which uWSGI runs all requests. */
static PyThreadState *thread;

/* The context variables with which each request begins. */
static PyObject *first_context;

/* The request that runs; NULL on the main stack. */
static void *running;

/* Whether the main stack keeps the GIL, as without enable-threads: then a
   suspended request must leave it to the main stack. */
static int gil_kept;

typedef struct Core {
    void *request; /* uWSGI's struct, the same for all requests of an async core */
    struct Core *next;
    int suspended;
    int gave_gil;
    /* While the core is suspended: its part of the PyThreadState. While it runs:
       the part that the thread gets when the core is suspended again. */
    _PyErr_StackItem exc_state;
    _PyErr_StackItem *exc_info;
    PyObject *context;
#if PY_VERSION_HEX >= 0x030B0000
    _PyStackChunk *datastack_chunk;
    PyObject **datastack_top;
    PyObject **datastack_limit;
#else
    CFrame *cframe;
#endif
} Core;

#define BUCKETS 256
static Core *cores[BUCKETS];

static Core *find(void *request, int make)
{
    Core **bucket = &cores[((uintptr_t)request >> 6) % BUCKETS];
    Core *core;
    for (core = *bucket; core != NULL; core = core->next)
        if (core->request == request)
            return core;
    if (!make)
        return NULL;
    core = calloc(1, sizeof(Core));
    if (core == NULL)
        Py_FatalError("psycogreen: no memory to suspend a request");
    core->request = request;
    core->exc_info = &thread->exc_state;
#if PY_VERSION_HEX < 0x030B0000
    core->cframe = &thread->root_cframe;
#endif
    core->next = *bucket;
    return *bucket = core;
}

#define EXCHANGE(type, field) \
    do { type kept = core->field; core->field = thread->field; thread->field = kept; } while (0)

static void exchange(Core *core)
{
    EXCHANGE(_PyErr_StackItem, exc_state);
    EXCHANGE(_PyErr_StackItem *, exc_info);
    EXCHANGE(PyObject *, context);
    thread->context_ver++; /* otherwise ContextVar.get() returns a cached value */
#if PY_VERSION_HEX >= 0x030B0000
    EXCHANGE(_PyStackChunk *, datastack_chunk);
    EXCHANGE(PyObject **, datastack_top);
    EXCHANGE(PyObject **, datastack_limit);
#else
    EXCHANGE(CFrame *, cframe);
#endif
}

/* Give a new request its own context variables. */
static void begin(void)
{
    PyObject *old = thread->context;
    if (first_context == NULL) {
        /* The context in which the application was loaded. */
        first_context = old == NULL ? PyContext_New() : PyContext_Copy(old);
        if (first_context == NULL)
            PyErr_Clear();
    }
    thread->context = first_context == NULL ? NULL : PyContext_Copy(first_context);
    if (thread->context == NULL)
        PyErr_Clear();
    thread->context_ver++;
    Py_XDECREF(old);
}

static void suspend(void *request)
{
    PyGILState_STATE state;
    int held;
    Core *core;

    if (request == NULL) { /* the main stack is about to switch to a request */
        gil_kept = PyGILState_Check();
        uwsgi_suspend(NULL);
        request = uwsgi_current();
        core = find(request, 0);
        if (core == NULL || !core->suspended) {
            state = PyGILState_Ensure();
            begin(); /* here on the main stack, because it may run finalizers */
            PyGILState_Release(state);
        }
        running = request;
        return;
    }
    held = PyGILState_Check();
    state = PyGILState_Ensure();
    uwsgi_suspend(request);
    core = find(request, 1);
    core->suspended = 1;
    exchange(core);
    running = NULL;
    PyGILState_Release(state);
    /* In uwsgi.suspend(), called by the application, the request holds the GIL. uWSGI's
       own functions have released it. */
    core->gave_gil = held && !gil_kept;
    if (core->gave_gil)
        PyEval_SaveThread();
}

static void resume(void *request)
{
    PyGILState_STATE state;
    PyObject *unused;
    Core *core;

    if (request == NULL) { /* the main stack: a request was suspended or has ended */
        running = NULL;
        uwsgi_resume(NULL);
        return;
    }
    core = find(request, 1);
    if (core->gave_gil)
        PyEval_RestoreThread(thread);
    state = PyGILState_Ensure();
    uwsgi_resume(request);
    exchange(core);
    core->suspended = 0;
    running = request;
    unused = core->context;
    core->context = NULL;
    Py_XDECREF(unused);
    PyGILState_Release(state);
}

/* Return the member of *plugin*, uWSGI's struct for the Python plugin, that is *function*.
   Return NULL if no member is, or more than one. */
static hook *slot(hook *plugin, hook function)
{
    hook *member = NULL;
    int i;
    /* The struct has about 50 members, most of them pointers to functions. The two that
       install() replaces are number 22 and 23. */
    for (i = 0; i < 40; i++)
        if (plugin[i] == function) {
            if (member != NULL)
                return NULL;
            member = &plugin[i];
        }
    return member;
}

PyDoc_STRVAR(install_doc,
"install()\n--\n\n"
"Make the Python plugin of this process's uWSGI keep CPython's state for each suspended request.\n\n"
"Raises:\n"
"    RuntimeError: The plugin is not one that psycogreen knows, or this is not its main interpreter.");

static PyObject *install(PyObject *self, PyObject *unused)
{
    hook *plugin, *suspend_slot, *resume_slot;

    if (thread != NULL)
        Py_RETURN_NONE;
    if (PyGILState_GetThisThreadState() != PyThreadState_Get()) {
        PyErr_SetString(PyExc_RuntimeError, "uGreen needs the main interpreter: set single-interpreter = true");
        return NULL;
    }
    plugin = dlsym(RTLD_DEFAULT, "python_plugin");
    if (plugin == NULL) /* the plugin is a file of its own, as Debian's is */
        plugin = dlsym(RTLD_DEFAULT, "python" Py_STRINGIFY(PY_MAJOR_VERSION) Py_STRINGIFY(PY_MINOR_VERSION) "_plugin");
    uwsgi_current = (void *(*)(void))dlsym(RTLD_DEFAULT, "simple_current_wsgi_req");
    uwsgi_suspend = (hook)dlsym(RTLD_DEFAULT, "uwsgi_python_suspend");
    uwsgi_resume = (hook)dlsym(RTLD_DEFAULT, "uwsgi_python_resume");
    suspend_slot = plugin && uwsgi_suspend ? slot(plugin, uwsgi_suspend) : NULL;
    resume_slot = plugin && uwsgi_resume ? slot(plugin, uwsgi_resume) : NULL;
    if (uwsgi_current == NULL || suspend_slot == NULL || resume_slot == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "psycogreen does not know this uWSGI's Python plugin: pip install uwsgi");
        return NULL;
    }
    thread = PyThreadState_Get();
    *suspend_slot = suspend;
    *resume_slot = resume;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(use_doc,
"use(uwsgi)\n--\n\n"
"Make wait() call the functions of the module *uwsgi*.");

static PyObject *use(PyObject *self, PyObject *uwsgi)
{
    Py_XSETREF(wait_fd_read, PyObject_GetAttrString(uwsgi, "wait_fd_read"));
    Py_XSETREF(suspend_request, PyObject_GetAttrString(uwsgi, "suspend"));
    if (wait_fd_read == NULL || suspend_request == NULL)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(core_doc,
"core()\n--\n\n"
"Return a number that identifies the running request's async core; 0 on the main stack, None in another thread.\n\n"
"Without install() it always returns None.");

static PyObject *core(PyObject *self, PyObject *unused)
{
    if (PyThreadState_Get() != thread)
        Py_RETURN_NONE;
    return PyLong_FromVoidPtr(running);
}

PyDoc_STRVAR(wait_doc,
"wait(fd)\n--\n\n"
"Suspend the running request until *fd* can be read.\n\n"
"No signal handler runs between the two calls: its exception would leave *fd* registered.\n\n"
"Raises:\n"
"    OSError: uWSGI can't watch *fd*.");

static PyObject *wait(PyObject *self, PyObject *fd)
{
    PyObject *registered = PyObject_CallFunctionObjArgs(wait_fd_read, fd, NULL);
    if (registered == NULL)
        return NULL;
    Py_DECREF(registered);
    return PyObject_CallFunctionObjArgs(suspend_request, NULL);
}

PyDoc_STRVAR(timer_doc,
"timer(seconds)\n--\n\n"
"Return a new descriptor that can be read once *seconds* have passed.\n\n"
"Raises:\n"
"    OSError: No descriptor is free.");

static PyObject *timer(PyObject *self, PyObject *seconds)
{
#ifdef __linux__
    struct itimerspec when = {{0, 0}, {0, 1}}; /* 0 would disarm the timer */
    double left = PyFloat_AsDouble(seconds);
    int fd;
    if (left == -1 && PyErr_Occurred())
        return NULL;
    if (left > 0) {
        when.it_value.tv_sec = (time_t)left;
        when.it_value.tv_nsec = (long)((left - (time_t)left) * 1e9) | 1;
    }
    fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    if (fd < 0 || timerfd_settime(fd, 0, &when, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(fd);
#else
    PyErr_SetString(PyExc_NotImplementedError, "psycogreen knows uGreen on Linux alone");
    return NULL;
#endif
}

static PyMethodDef methods[] = {
    {"install", install, METH_NOARGS, install_doc},
    {"use", use, METH_O, use_doc},
    {"core", core, METH_NOARGS, core_doc},
    {"wait", wait, METH_O, wait_doc},
    {"timer", timer, METH_O, timer_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    "psycogreen._ugreen",
    "CPython's state for each of uGreen's stacks; see the source.",
    -1,
    methods,
};

PyMODINIT_FUNC PyInit__ugreen(void)
{
    return PyModule_Create(&module);
}
