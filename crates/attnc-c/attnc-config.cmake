# find_package(attnc) gives the targets attnc::attnc (shared) and attnc::attnc_static.
get_filename_component(_attnc_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(_attnc_shared "${_attnc_prefix}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}attnc_c${CMAKE_SHARED_LIBRARY_SUFFIX}")
set(_attnc_static "${_attnc_prefix}/lib/${CMAKE_STATIC_LIBRARY_PREFIX}attnc_c${CMAKE_STATIC_LIBRARY_SUFFIX}")

if(EXISTS "${_attnc_shared}" AND NOT TARGET attnc::attnc)
  add_library(attnc::attnc SHARED IMPORTED)
  set_target_properties(attnc::attnc PROPERTIES
    IMPORTED_LOCATION "${_attnc_shared}"
    INTERFACE_INCLUDE_DIRECTORIES "${_attnc_prefix}/include")
endif()

if(EXISTS "${_attnc_static}" AND NOT TARGET attnc::attnc_static)
  find_package(Threads REQUIRED)
  add_library(attnc::attnc_static STATIC IMPORTED)
  set_target_properties(attnc::attnc_static PROPERTIES
    IMPORTED_LOCATION "${_attnc_static}"
    INTERFACE_INCLUDE_DIRECTORIES "${_attnc_prefix}/include"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
endif()

set(attnc_FOUND TRUE)
