() => document.addEventListener('keydown', (event) => {
  // Ctrl and Enter make the video from anywhere: with the Tab key the button is far from the sliders.
  const create = document.querySelector('#create');
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  if (create && create.offsetParent && !create.disabled) create.click();
})
