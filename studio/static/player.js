() => {
  // The finished video goes on where the growing one was being watched.
  const growing = document.querySelector('#live video'), at = growing ? growing.currentTime : 0;
  if (growing) { growing.pause(); growing.removeAttribute('src'); growing.load(); }
  const play = (triesLeft) => {
    const video = document.querySelector('#video video');
    if (video && video.readyState > 0) { if (at < video.duration - 0.2) video.currentTime = at; video.play().catch(() => {}); }
    else if (triesLeft > 0) setTimeout(() => play(triesLeft - 1), 50);
  };
  play(100);
}
