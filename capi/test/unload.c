/* Loads and frees a library, and ends with 1 if the library is gone: unload DLL. */
#include <stdio.h>
#include <windows.h>

int main(int argc, char **argv) {
    HMODULE library = argc == 2 ? LoadLibraryA(argv[1]) : NULL;
    if (library == NULL || !FreeLibrary(library) || GetModuleHandleA("latchkey.dll") != library) {
        fprintf(stderr, "the library was not loaded, or was unloaded\n");
        return 1;
    }
    return 0;
}
